"""The row of an exchange in lists."""

from __future__ import annotations

from uuid import UUID

import apsw

from gemini_caching_proxy.stores.base import Summary
from gemini_caching_proxy.stores.codec import Codec

from .connection import fetch_one
from .facets import Facets

_ROW = """
    SELECT e.sequence, e.id, e.started_ns, e.facet, e.request_bytes, e.response_bytes, e.chunk_count, e.ttfb_us,
        e.ttft_us, e.duration_us, e.input_tokens, e.cached_tokens, e.output_tokens, e.thoughts_tokens, e.total_tokens,
        e.price_nanousd, e.saved_nanousd, e.finish_reason, e.conversation, d.target, d.client_address, d.parent,
        d.said_bytes, d.asked,
        CASE WHEN d.said_bytes > 0 THEN d.response END
    FROM exchanges e JOIN details d ON d.sequence = e.sequence WHERE e.sequence = ?
"""


def uuid_of(key: bytes | None) -> UUID | None:
    return None if key is None else UUID(bytes=key)


def read_summary(connection: apsw.Connection, facets: Facets, codec: Codec, sequence: int) -> Summary:
    """The summary of an exchange that is there."""
    (
        _,
        key,
        started_ns,
        number,
        *measures,
        finish_reason,
        conversation,
        target,
        client,
        parent,
        said,
        asked,
        response,
    ) = fetch_one(connection, _ROW, (sequence,))
    request_bytes, response_bytes, chunk_count, ttfb, ttft, duration, *tokens, price, saved = measures
    input_tokens, cached_tokens, output_tokens, thoughts_tokens, total_tokens = tokens
    facet = facets[number]
    return Summary(
        id=UUID(bytes=key),
        sequence=sequence,
        started_ns=started_ns,
        provider=facet.provider,
        operation=facet.operation,
        method=facet.method,
        target=target,
        model=facet.model,
        model_version=facet.model_version,
        status=facet.status,
        failure=facet.failure_kind,
        finish_reason=finish_reason,
        stream_shape=facet.stream_shape,  # type: ignore[arg-type]
        client_address=client,
        user_agent=facet.user_agent,
        credential=facet.credential,
        request_bytes=request_bytes,
        response_bytes=response_bytes,
        chunk_count=chunk_count,
        ttfb_us=ttfb,
        ttft_us=ttft,
        duration_us=duration,
        input_tokens=input_tokens,
        cached_tokens=cached_tokens,
        output_tokens=output_tokens,
        thoughts_tokens=thoughts_tokens,
        total_tokens=total_tokens,
        price_nanousd=price,
        conversation=uuid_of(conversation),
        parent=uuid_of(parent),
        preview=codec.unpack_first(response, said).decode() if said else asked,
        verdict=facet.cache_verdict,
        saved_nanousd=saved,
    )
