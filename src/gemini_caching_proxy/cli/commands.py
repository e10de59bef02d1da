"""The commands by name, each with the function that does it, loaded when it is called."""

from __future__ import annotations

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


COMMANDS: dict[str, CommandPlace] = {
    "serve": CommandPlace("serving", "serve", "Run the proxy until Ctrl-C or SIGTERM."),
    "demo": CommandPlace("serving", "demo", "Try everything with a simulated Gemini: no key, no network."),
    "tail": CommandPlace("following", "tail", "Follow exchanges live, one line each."),
    "list": CommandPlace("reading", "list_exchanges", "List recorded exchanges, newest first."),
    "show": CommandPlace("showing", "show", "Show one exchange: the conversation turn, or its exact bytes."),
    "search": CommandPlace("reading", "search", "Find exchanges by the words in requests and answers."),
    "stats": CommandPlace("reading", "stats", "Sum up tokens, cost, latency and errors."),
    "status": CommandPlace("upkeep", "status", "Tell whether recording keeps up, and how big the store is."),
    "prune": CommandPlace("upkeep", "prune", "Remove old exchanges and free the parts nobody uses."),
    "doctor": CommandPlace("diagnosis", "doctor", "Check the setup and print the exact setting for each client."),
    "version": CommandPlace("diagnosis", "version", "Print the versions in use."),
}


class CommandGroup(TyperGroup):
    """The group of all commands: lists them without loading them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that has name and summary; `resolve_command` gives the real one."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        return typer.core.TyperCommand(cmd_name, help=place.summary, callback=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = {name: self.get_command(ctx, name) for name in COMMANDS}
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name is not None and stand_in is not None else None, rest


def load_command(name: str) -> Any:
    """Import a command's module and build the command."""
    place = COMMANDS[name]
    function = getattr(import_module(f"{__package__}.{place.module}"), place.function)
    single = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    single.command(name, context_settings={"help_option_names": ["-h", "--help"]})(function)
    return typer.main.get_command(single)
