"""`cache explain`: how a request is looked up, and why it hits or misses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import time_ns
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from gemini_caching_proxy.cache.index import Index
from gemini_caching_proxy.cache.key import key_text
from gemini_caching_proxy.cache.policy import Policy
from gemini_caching_proxy.exchange import Exchange, Verdict
from gemini_caching_proxy.explanation import Explainer, Explanation, Nearest, age_text
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import store_exists
from gemini_caching_proxy.stores.base import ExchangeStore

from .access import find, first_steps, reading
from .caching import canonical_text, subject_record
from .figures import local_time
from .flags import some_settings
from .options import JSON, Bundle, option, refuse, with_options
from .records import entry_record
from .request_file import STDIN, read_request
from .terminal import note, one_line, output, put, say, styled, visible, write_json

SETTINGS = some_settings(
    "data_dir",
    "store",
    "gemini_base_url",
    "cache",
    "cache_routes",
    "cache_ttl",
    "cache_namespace",
    "cache_dependent",
    "cache_finish_reasons",
    "cache_normalisers",
    "cache_patterns",
    "cache_replay_errors",
)
"""What decides about keys and serving; give what the running `serve` was given."""
CANONICAL_CHARACTERS = 4000
STYLES = {Verdict.HIT: "bold green", Verdict.MISS: "bold yellow", Verdict.STALE: "bold yellow"}

FULL = Bundle((option("full", bool, "Show the whole canonical request.", "--full"),), lambda values: values["full"])


@with_options(full=FULL, json=JSON, settings=SETTINGS)
async def explain(
    request: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST",
            help="An exchange (its id, or the word last), or a file with a raw HTTP request; - is standard input.",
            show_default=False,
        ),
    ],
    settings: Settings,
    full: bool,
    json: bool,
) -> None:
    """Tell how a request is looked up, and why it hits or misses.

    Prints the operation, the canonical request, its key, and the entry it finds. For a miss, and for an exchange that
    was one, it names the nearest entry and the first value that differs. Settings are those of the environment: give
    the flags that the running `serve` was given. Nothing is sent anywhere.
    """
    if not store_exists(settings):
        note(first_steps(settings))
        raise typer.Exit(1)
    index, policy = Index.from_settings(settings, providers()), Policy.from_settings(settings)
    async with reading(settings) as store:
        exchange, recorded = await _request(store, request, settings)
        explainer = Explainer(store, index, policy, shared=settings.cache_namespace == "shared")
        explanation = await explainer.explain(
            exchange, time_ns(), any_credential=not recorded and exchange.credential is None
        )
    if json:
        write_json(explanation_record(explanation, recorded=recorded))
    else:
        _print(explanation, recorded=recorded, full=full)


async def _request(store: ExchangeStore, text: str, settings: Settings) -> tuple[Exchange, bool]:
    """The request that is meant, and whether it is a recorded one."""
    if text != STDIN and not _is_file(text):
        return await store.get(UUID(await find(store, text))), True
    try:
        return read_request(text, settings), False
    except ValueError as error:
        raise refuse("REQUEST", error) from None


def _is_file(text: str) -> bool:
    return Path(text).is_file()


def explanation_record(explanation: Explanation, *, recorded: bool) -> dict[str, Any]:
    """`cache explain --json`."""
    exchange, nearest, entry = explanation.exchange, explanation.nearest, explanation.entry
    use = exchange.cache
    return {
        "exchange": str(exchange.id) if recorded else None,
        "operation": exchange.operation,
        "model": exchange.model,
        "mode": explanation.mode,
        "verdict": explanation.verdict.value,
        "why": explanation.why,
        "key": None if explanation.key is None else key_text(explanation.key),
        "canonical": subject_record(explanation.subject or ""),
        "entry": None if entry is None else entry_record(entry),
        "ttl_seconds": explanation.ttl_s,
        "verdict_then": None if use is None else use.verdict.value,
        "why_then": None if use is None else use.detail,
        "nearest": None if nearest is None else _nearest_record(nearest),
    }


def _nearest_record(nearest: Nearest) -> dict[str, Any]:
    return {
        "key": key_text(nearest.entry.key),
        "exchange": str(nearest.entry.exchange),
        "differences": nearest.differences,
        "path": nearest.first.path,
        "here": nearest.first.here,
        "there": nearest.first.there,
    }


def _print(explanation: Explanation, *, recorded: bool, full: bool) -> None:
    exchange, subject = explanation.exchange, explanation.subject
    _line("asked", " ".join(filter(None, (exchange.operation, exchange.model))))
    if recorded:
        _line("exchange", f"{exchange.id} of {local_time(exchange.started_ns):%Y-%m-%d %H:%M:%S}")
    if exchange.cache is not None:
        _line("then", ", ".join(filter(None, (exchange.cache.verdict.value, exchange.cache.detail))))
    _line("mode", explanation.mode)
    _line("verdict", _verdict_text(explanation), STYLES.get(explanation.verdict, "bold"))
    if explanation.key is not None:
        _line("key", key_text(explanation.key))
    if subject is not None:
        _line("kind", _kind_text(explanation))
    _print_entry(explanation)
    if explanation.nearest is not None:
        _print_nearest(explanation.nearest)
    if subject is not None:
        say("", "canonical request")
        text = canonical_text(subject)
        shown = text if full else text[:CANONICAL_CHARACTERS]
        put(styled(shown))
        if len(shown) < len(text):
            note(f"… {len(text) - len(shown)} more characters (--full)")


def _line(name: str, text: str, style: str = "") -> None:
    output().print(Text(f"{name:<10}", "dim").append(one_line(text, 2000), style), soft_wrap=True)


def _verdict_text(explanation: Explanation) -> str:
    meanings: Mapping[Verdict, str] = {
        Verdict.HIT: "hit: it is answered from the record",
        Verdict.MISS: "miss: nothing recorded answers it",
        Verdict.STALE: "stale: what is recorded is too old",
        Verdict.BYPASS: "bypass: it is not answered from the record",
    }
    text = meanings.get(explanation.verdict, explanation.verdict.value)
    return f"{text} ({explanation.why})" if explanation.why else text


def _kind_text(explanation: Explanation) -> str:
    subject = explanation.subject
    assert subject is not None
    words = [subject.kind, "the same answer can be expected" if subject.deterministic else "answers vary"]
    if subject.depends_on:
        words.append(f"depends on {subject.depends_on}")
    if explanation.ttl_s is not None:
        words.append(f"served for {age_text(explanation.ttl_s)}")
    return ", ".join(words)


def _print_entry(explanation: Explanation) -> None:
    entry = explanation.entry
    if entry is None:
        return
    own = entry.exchange == explanation.exchange.id
    origin = "this very exchange" if own else f"exchange {entry.exchange}"
    moment = f"{local_time(entry.stored_ns):%Y-%m-%d %H:%M:%S}"
    credential = entry.credential
    whose = f", of key {credential}" if credential and credential != explanation.exchange.credential else ""
    pinned = ", pinned" if entry.pinned else ""
    _line("entry", f"{entry.kind} of {origin}, stored {moment}{whose}{pinned}, {entry.hits} hits")


def _print_nearest(nearest: Nearest) -> None:
    count = nearest.differences
    values = "1 value differs" if count == 1 else f"{count} values differ"
    _line("nearest", f"{key_text(nearest.entry.key)} of exchange {nearest.entry.exchange}: {values}")
    first = nearest.first
    say(
        f"  {visible(first.path) or '(body)'}",
        f"    here   {visible(first.here)}",
        f"    there  {visible(first.there)}",
    )
