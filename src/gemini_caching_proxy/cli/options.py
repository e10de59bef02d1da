"""Options that several commands share, declared once, and commands that are made of them.

A `Bundle` is a set of options and what they make together: `with_options(settings=FOLDER, filters=FILTERS)` gives a
command those options on the command line and hands its function the two made values instead.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.exchange import FailureKind, Verdict
from gemini_caching_proxy.settings import Settings, load_settings
from gemini_caching_proxy.stores.base import ExchangeStore, Query

from .figures import read_moment

FOLDER_PANEL = "Where"
FILTER_PANEL = "Filters"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Options that belong together."""

    parameters: tuple[inspect.Parameter, ...]
    make: Callable[[Mapping[str, Any]], Any]
    """From the options' values to what the command works with."""


def option(name: str, kind: Any, help_: str, *flags: str, panel: str | None = None, **more: Any) -> inspect.Parameter:
    """An option that may be left out (then None, or False for a switch)."""
    info = typer.Option(*flags, help=help_, rich_help_panel=panel, show_default=False, **more)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if kind is bool else None,
        annotation=Annotated[kind if kind is bool else kind | None, info],
    )


def with_options(**bundles: Bundle) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Give a command function (plain or async) the options of these bundles."""

    def wrap(function: Callable[..., Any]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        parameters = [parameter for name, parameter in own.items() if name not in bundles]
        for bundle in bundles.values():
            parameters += bundle.parameters

        def command(**values: Any) -> None:
            made = {name: bundle.make(_take(values, bundle)) for name, bundle in bundles.items()}
            result = function(**values, **made)
            if inspect.iscoroutine(result):
                asyncio.run(result)

        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        command.__module__ = function.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return wrap


def _take(values: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    return {parameter.name: values.pop(parameter.name) for parameter in bundle.parameters}


def refuse(flag: str, problem: ValueError | str) -> typer.BadParameter:
    """A usage error that names the option."""
    return typer.BadParameter(str(problem), param_hint=flag)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """The settings that flags, environment and `.env` make together.

    Raises:
        ConfigError: one sentence that names what is wrong.
    """
    try:
        return load_settings(**values)
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"The file .env here cannot be read: {error}.") from None


FOLDER = Bundle(
    (
        option(
            "data_dir",
            str,
            "Folder of the journal and the store (GEMINI_PROXY_DATA_DIR).",
            "--data-dir",
            metavar="PATH",
            panel=FOLDER_PANEL,
        ),
        option(
            "store",
            str,
            "Where exchanges are kept: sqlite or sqlite:///path/to/file (GEMINI_PROXY_STORE).",
            "--store",
            metavar="STORE",
            panel=FOLDER_PANEL,
        ),
    ),
    lambda values: read_settings(values),
)

JSON = Bundle(
    (option("json", bool, "One JSON object a line, for programs.", "--json"),),
    lambda values: bool(values["json"]),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """A query, but for what only the store can resolve."""

    query: Query
    conversation: str | None = None
    """Digits of the id of any exchange in the conversation."""

    async def resolved(self, store: ExchangeStore) -> Query:
        """The whole query.

        Raises:
            NotFound: there is no such conversation.
        """
        if self.conversation is None:
            return self.query
        return replace(self.query, conversation=await conversation_of(store, self.conversation))


async def conversation_of(store: ExchangeStore, digits: str) -> UUID:
    """The conversation that an exchange belongs to; a conversation's id is that of its first exchange."""
    exchange = await store.get(await store.resolve(digits))
    return exchange.conversation or exchange.id


def _make_filters(values: Mapping[str, Any]) -> Filters:
    status, status_class = _read_status(values["status"])
    query = Query(
        model=values["model"],
        operation=values["operation"],
        status=status,
        status_class=status_class,
        errors=True if values["errors"] else None,
        failure=values["failure"],
        since_ns=_read_moment("--since", values["since"]),
        until_ns=_read_moment("--until", values["until"]),
        contains=values["contains"],
        client=values["client"],
        verdict=values["verdict"],
    )
    return Filters(query, values["conversation"])


def _read_status(text: str | None) -> tuple[int | None, int | None]:
    """`404` -> exact, `4xx` -> class."""
    if text is None:
        return None, None
    if len(text) == 3 and text[0] in "12345":
        if text[1:].lower() == "xx":
            return None, int(text[0])
        if text.isascii() and text.isdigit():
            return int(text), None
    raise refuse("--status", f"{text!r} is no HTTP status: write 404 or 4xx")


def _read_moment(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return read_moment(text, datetime.now().astimezone())
    except ValueError as error:
        raise refuse(flag, error) from None


FILTERS = Bundle(
    (
        option(
            "model",
            str,
            "Model asked for or that answered; gemini-3* matches any rest.",
            "--model",
            metavar="MODEL",
            panel=FILTER_PANEL,
        ),
        option(
            "operation",
            str,
            "What was asked: generate_content, embed_content, …",
            "--operation",
            metavar="NAME",
            panel=FILTER_PANEL,
        ),
        option("status", str, "HTTP status, 404 or 4xx.", "--status", metavar="STATUS", panel=FILTER_PANEL),
        option("errors", bool, "Only failures and statuses of 400 or more.", "--errors", panel=FILTER_PANEL),
        option("failure", FailureKind, "Only this kind of failure.", "--failure", metavar="KIND", panel=FILTER_PANEL),
        option(
            "since",
            str,
            "Started after: 30m, 2h, 7d ago, or an ISO date or time.",
            "--since",
            metavar="WHEN",
            panel=FILTER_PANEL,
        ),
        option("until", str, "Started before, written like --since.", "--until", metavar="WHEN", panel=FILTER_PANEL),
        option(
            "conversation",
            str,
            "Exchanges of one conversation, by any id in it.",
            "--conversation",
            metavar="ID",
            panel=FILTER_PANEL,
        ),
        option(
            "contains",
            str,
            "Words that request or answer holds, all of them.",
            "--contains",
            metavar="WORDS",
            panel=FILTER_PANEL,
        ),
        option("client", str, "Start of the client's user agent.", "--client", metavar="AGENT", panel=FILTER_PANEL),
        option(
            "verdict",
            Verdict,
            "What the cache said: hit, collapsed, miss, stale or bypass.",
            "--verdict",
            metavar="VERDICT",
            panel=FILTER_PANEL,
        ),
    ),
    _make_filters,
)


def limit_option(default: int, help_: str) -> Bundle:
    """`-n/--limit`, a positive number."""
    info = typer.Option(
        "--limit",
        "-n",
        help=f"{help_} ({default} by default).",
        metavar="NUMBER",
        min=1,
        max=100_000,
        show_default=False,
    )
    parameter = inspect.Parameter(
        "limit", inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[int, info]
    )
    return Bundle((parameter,), lambda values: int(values["limit"]))
