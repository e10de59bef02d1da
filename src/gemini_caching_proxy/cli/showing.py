"""`show`: one exchange."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal
from uuid import UUID

import typer
from rich.text import Text

from gemini_caching_proxy.content_coding import uncoded
from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import Rendering
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import ExchangeStore

from .access import find, reading
from .options import FOLDER, JSON, Bundle, option, refuse, with_options
from .records import exchange_record
from .rendering import added_turns, body_notes, conversation, facts, headers, raw
from .terminal import note, output, put, write_json
from .timeline import timeline

BodySide = Literal["request", "response"]

BODY = Bundle(
    (
        option(
            "body",
            BodySide,
            "Write the exact bytes of this body and nothing else.",
            "--body",
            metavar="request|response",
        ),
    ),
    lambda values: values["body"],
)
VIEW = Bundle(
    (
        option("headers", bool, "Show the headers too.", "--headers"),
        option("timeline", bool, "Chart when the chunks came.", "--timeline"),
        option("full", bool, "Show all turns and whole texts, not only what this turn added.", "--full"),
    ),
    dict,
)


@with_options(body=BODY, view=VIEW, json=JSON, settings=FOLDER)
async def show(
    exchange_id: Annotated[
        str, typer.Argument(metavar="ID", help="Beginning or end of the id, or the word last.", show_default=False)
    ],
    settings: Settings,
    view: dict[str, bool],
    body: BodySide | None,
    json: bool,
) -> None:
    """Show one exchange: the conversation turn, or its exact bytes."""
    if body is not None and (json or any(view.values())):
        raise refuse("--body", "writes bytes and nothing else, so it takes no other view beside it")
    async with reading(settings) as store:
        exchange = await store.get(UUID(await find(store, exchange_id)))
        parent = await _parent(store, exchange)
    if body is not None:
        _write_body(exchange, body)
    elif json:
        write_json(exchange_record(exchange))
    else:
        _print(exchange, parent, view)


async def _parent(store: ExchangeStore, exchange: Exchange) -> Exchange | None:
    if exchange.parent is None:
        return None
    try:
        return await store.get(exchange.parent)
    except NotFound:
        # Pruned.
        return None


def _write_body(exchange: Exchange, side: BodySide) -> None:
    if side == "response" and exchange.response is None:
        raise NotFound(f"Exchange {exchange.id} has no response.")
    body = exchange.request_body if side == "request" or exchange.response is None else exchange.response.body
    sys.stdout.flush()
    data = memoryview(body.data)
    while data:
        data = data[os.write(sys.stdout.fileno(), data[: 1 << 20]) :]
    if body_notes(body):
        note(f"gemini-proxy: {body_notes(body)}.")


def _print(exchange: Exchange, parent: Exchange | None, view: dict[str, bool]) -> None:
    put(facts(exchange))
    if view["timeline"]:
        put(Text(), timeline(exchange, output().width))
        return
    if view["headers"]:
        _print_headers(exchange)
    _print_turn(exchange, parent, full=view["full"])


def _print_headers(exchange: Exchange) -> None:
    line = f"{exchange.method} {exchange.target} HTTP/{exchange.http_version}"
    put(headers("request headers", line, exchange.request_headers))
    response = exchange.response
    if response is not None:
        line = f"{response.status} {response.reason.decode('latin-1')}"
        put(headers("response headers", line, response.headers + response.trailers))


def _print_turn(exchange: Exchange, parent: Exchange | None, *, full: bool) -> None:
    rendering = render(exchange)
    response = exchange.response
    if rendering.request or rendering.response:
        earlier = 0 if full or parent is None else added_turns(rendering, render(parent))
        put(conversation(rendering, earlier=earlier, full=full))
    if not rendering.request:
        plain = uncoded(exchange.request_headers, exchange.request_body.data).data
        put(raw("request", plain, exchange.request_body, full=full))
    if not rendering.response and response is not None:
        plain = uncoded(response.headers, response.body.data).data
        put(raw("response", plain, response.body, full=full))
    sys.stdout.flush()
    for side, body in (("request", exchange.request_body), ("response", response.body if response else None)):
        if body is not None and body_notes(body):
            note(f"{side}: {body_notes(body)}.")


def render(exchange: Exchange) -> Rendering:
    """The exchange as a conversation, as its provider reads it; empty for one nobody reads."""
    provider = providers().get(exchange.provider)
    if provider is None:
        return Rendering()
    response = exchange.response
    return provider.render(
        exchange.operation,
        uncoded(exchange.request_headers, exchange.request_body.data).data,
        response.headers if response else (),
        uncoded(response.headers, response.body.data).data if response else b"",
    )
