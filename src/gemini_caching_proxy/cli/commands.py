"""The commands by name, each with the function that does it, loaded when it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class CommandPlace:
    """Where a command lives and what it does."""

    module: str
    """Module of this package."""
    function: str
    summary: str
    """First line of the function's docstring; a test compares them."""


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """Commands that belong together: `gemini-proxy GROUP COMMAND`."""

    summary: str
    commands: Mapping[str, CommandPlace]


CACHE: dict[str, CommandPlace] = {
    "stats": CommandPlace("caching", "cache_stats", "Tell what the cache holds and what it saved."),
    "list": CommandPlace("caching", "list_entries", "List what can be answered from the record, newest first."),
    "show": CommandPlace("caching", "show_entry", "Show one entry: what was asked, and what it answers."),
    "explain": CommandPlace("explaining", "explain", "Tell how a request is looked up, and why it hits or misses."),
    "pin": CommandPlace("caching", "pin", "Keep an entry: never too old, never replaced."),
    "evict": CommandPlace("eviction", "evict", "Forget entries; the exchanges stay."),
    "rebuild": CommandPlace("eviction", "rebuild", "Make the entries of all recorded exchanges again."),
}
COMMANDS: dict[str, CommandPlace | GroupPlace] = {
    "serve": CommandPlace("serving", "serve", "Run the proxy until Ctrl-C or SIGTERM."),
    "demo": CommandPlace("serving", "demo", "Try everything with a simulated Gemini: no key, no network."),
    "tail": CommandPlace("following", "tail", "Follow exchanges live, one line each."),
    "list": CommandPlace("reading", "list_exchanges", "List recorded exchanges, newest first."),
    "show": CommandPlace("showing", "show", "Show one exchange: the conversation turn, or its exact bytes."),
    "search": CommandPlace("reading", "search", "Find exchanges by the words in requests and answers."),
    "stats": CommandPlace("reading", "stats", "Sum up tokens, cost, latency and errors."),
    "cache": GroupPlace("Look into the cache: what it holds, why a request misses.", CACHE),
    "replay": CommandPlace("cassettes", "replay", "Answer from a cassette alone: no store, no network."),
    "export": CommandPlace("cassettes", "export", "Write recorded exchanges into a cassette."),
    "import": CommandPlace("cassettes", "import_cassette", "Take the exchanges of a cassette into the record."),
    "copy": CommandPlace("copying", "copy", "Copy the whole record into another store, and compare."),
    "status": CommandPlace("upkeep", "status", "Tell whether recording keeps up, and how big the store is."),
    "prune": CommandPlace("upkeep", "prune", "Remove old exchanges and free the parts nobody uses."),
    "doctor": CommandPlace("diagnosis", "doctor", "Check the setup and print the exact setting for each client."),
    "version": CommandPlace("diagnosis", "version", "Print the versions in use."),
}


class CommandGroup(TyperGroup):
    """A group of commands: lists them without loading them."""

    def __init__(self, *, places: Mapping[str, CommandPlace | GroupPlace] | None = None, **attributes: Any) -> None:
        """`places`: the group's commands; all there are by default."""
        super().__init__(**attributes)
        self._places = COMMANDS if places is None else places

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that has name and summary; `resolve_command` gives the real one."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        return typer.core.TyperCommand(cmd_name, help=place.summary, callback=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in self._places}
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, _load(name, self._places[name]) if name is not None and stand_in is not None else None, rest


def command_paths() -> Iterator[str]:
    """Every command that does something, as one types it: `serve`, `cache stats`."""
    for name, place in COMMANDS.items():
        if isinstance(place, GroupPlace):
            yield from (f"{name} {inner}" for inner in place.commands)
        else:
            yield name


def load_command(path: str) -> Any:
    """Import a command's module and build the command, or a group (`cache`)."""
    name, _, inner = path.partition(" ")
    place = COMMANDS[name]
    if inner and isinstance(place, GroupPlace):
        return _load(inner, place.commands[inner])
    return _load(name, place)


def _load(name: str, place: CommandPlace | GroupPlace) -> Any:
    if isinstance(place, GroupPlace):
        return CommandGroup(
            name=name,
            help=place.summary,
            places=place.commands,
            no_args_is_help=True,
            rich_markup_mode="rich",
            context_settings={"help_option_names": ["-h", "--help"]},
        )
    function = getattr(import_module(f"{__package__}.{place.module}"), place.function)
    single = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    single.command(name, context_settings={"help_option_names": ["-h", "--help"]})(function)
    return typer.main.get_command(single)
