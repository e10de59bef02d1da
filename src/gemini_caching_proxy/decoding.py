"""A raw exchange -> what it says: usage, price, texts, parts, and its place-to-be in a conversation.

Invariants: no bytes are lost or changed by being understood (parts that do not join to the body are dropped), and
`understand` never raises on what a body contains: then the exchange is kept as it came, with `decode_error`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace

from .cache.index import Index
from .content_coding import Plain, content_codings, uncoded
from .conversation import Turn, chain_of
from .exchange import Body, Exchange, Headers, Piece, Price, Response
from .log import get_logger
from .pricing import price
from .providers.base import Decoded, Provider

MAX_ERROR_CHARACTERS = 300
SERVED_TEXT_CHARS = 200
THREADLESS = ("count_tokens", "embed")
"""Operations whose name holds one of these carry `contents` but are no turn of a conversation."""

log = get_logger(__name__)


def understand(exchange: Exchange, providers: Mapping[str, Provider], index: Index | None = None) -> Turn:
    """The exchange with everything that its bodies tell, and the entry that `index` makes of it for the cache."""
    provider = providers.get(exchange.provider)
    if provider is None or _is_tunnel(exchange):
        return Turn(exchange)
    try:
        return _understand(exchange, provider, index)
    except Exception as error:  # noqa: BLE001 - the outermost ring: nothing a body holds may stop the recorder
        log.warning("an exchange could not be decoded", id=str(exchange.id), error=type(error).__name__)
        return Turn(replace(exchange, decode_error=_bounded(f"{type(error).__name__}: {error}")))


def _understand(exchange: Exchange, provider: Provider, index: Index | None) -> Turn:
    response = exchange.response
    request_plain = uncoded(exchange.request_headers, exchange.request_body.data)
    response_plain = _response_plain(response)
    decoded = provider.decode(
        exchange.operation,
        request_plain.data,
        response.status if response else None,
        response.headers if response else (),
        response_plain.data,
    )
    problems = [text for text in (request_plain.error, response_plain.error, decoded.error) if text]
    chain = () if _threadless(exchange.operation) else decoded.conversation
    model = exchange.model or decoded.model
    made = None
    if index is not None:
        made = index.entry(exchange if exchange.model else replace(exchange, model=model))
    entry = made or (exchange.entry_key, exchange.entry_kind)
    understood = replace(
        exchange,
        entry_key=entry[0],
        entry_kind=entry[1],
        stream_shape=decoded.stream_shape,
        model=model,
        model_version=decoded.model_version,
        response_id=decoded.response_id,
        finish_reason=decoded.finish_reason,
        usage=decoded.usage,
        price=_price(exchange, decoded),
        request_pieces=_pieces(decoded.request_pieces, exchange.request_headers, exchange.request_body),
        response_pieces=_pieces(decoded.response_pieces, response.headers, response.body) if response else (),
        request_text=decoded.request_text,
        response_text=decoded.response_text,
        timing=replace(exchange.timing, first_content_us=_first_content_us(response, decoded, response_plain.ends)),
        chain=chain_of(exchange.provider, chain, decoded.previous_response_id) if chain else (),
        decode_error=_bounded("; ".join(problems)) if problems else None,
    )
    texts = {piece.digest: piece.text for piece in decoded.request_pieces if piece.digest is not None}
    continues = None if _threadless(exchange.operation) else decoded.previous_response_id
    return Turn(_as_served(understood), continues, tuple(texts.get(part, "") for part in chain))


def _as_served(exchange: Exchange) -> Exchange:
    """An exchange that the cache served: it used nothing, and its answer is told where it first came.

    What the answer would have cost goes to what was saved.
    """
    use = exchange.cache
    if use is None or not use.served:
        return exchange
    saved = exchange.price.total_nanousd if exchange.price is not None else None
    return replace(
        exchange,
        usage=None,
        price=Price(0, 0, 0, exchange.price.model_ref if exchange.price is not None else ""),
        response_text=exchange.response_text[:SERVED_TEXT_CHARS],
        response_pieces=exchange.response_pieces if _has_parts(exchange.response_pieces) else (),
        cache=replace(use, saved_nanousd=saved),
    )


def _is_tunnel(exchange: Exchange) -> bool:
    return exchange.stream_shape == "websocket" and (exchange.response is None or exchange.response.status == 101)


def _response_plain(response: Response | None) -> Plain:
    if response is None:
        return Plain(b"")
    return uncoded(response.headers, response.body.data, (chunk.size for chunk in response.chunks))


def _threadless(operation: str) -> bool:
    return any(word in operation for word in THREADLESS)


def _price(exchange: Exchange, decoded: Decoded) -> Price | None:
    model = decoded.model_version or exchange.model or decoded.model
    if not model or decoded.usage is None:
        return None
    return price(model, decoded.usage, exchange.provider, at_ns=exchange.started_ns)


def _pieces(pieces: tuple[Piece, ...], headers: Headers, body: Body) -> tuple[Piece, ...]:
    """The pieces if they are the body's own bytes: a coded body is kept as one."""
    if not pieces or content_codings(headers):
        return ()
    if b"".join([piece.data for piece in pieces]) != body.data:
        raise ValueError("the parts of a body do not join to the body")
    # One piece that is no part says nothing, and would keep a store from keeping the whole body once.
    return pieces if _has_parts(pieces) or any(piece.text for piece in pieces) else ()


def _has_parts(pieces: tuple[Piece, ...]) -> bool:
    return any(piece.digest is not None for piece in pieces)


def _first_content_us(response: Response | None, decoded: Decoded, ends: tuple[int, ...]) -> int | None:
    """When the chunk came in that holds the first byte of the first event with content."""
    if response is None or not response.chunks:
        return None
    if decoded.first_content_event is not None:
        index = bisect_right(ends, decoded.first_content_event)
        return response.chunks[min(index, len(response.chunks) - 1)].offset_us
    return response.chunks[0].offset_us if decoded.stream_shape == "unary" else None


def _bounded(text: str) -> str:
    return text[:MAX_ERROR_CHARACTERS]
