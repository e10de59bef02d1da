"""What `--json` writes: the names are part of the interface, and `docs/cli.md` lists them.

Times are UTC text, durations microseconds, sizes bytes, costs billionths of a US dollar. Unknown is null, never 0.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from gemini_caching_proxy.cache.key import key_text
from gemini_caching_proxy.exchange import Body, CacheUse, Exchange, Failure, Headers, Price, Response, Timing, Usage
from gemini_caching_proxy.stores.base import CacheEntry, CacheStats, Hit, StatsRow, Summary

from .figures import iso_text


def summary_record(summary: Summary) -> dict[str, Any]:
    """A line of `list` and `tail`."""
    return {
        "id": str(summary.id),
        "sequence": summary.sequence,
        "started": iso_text(summary.started_ns),
        "provider": summary.provider,
        "operation": summary.operation,
        "method": summary.method,
        "target": summary.target,
        "model": summary.model,
        "model_version": summary.model_version,
        "status": summary.status,
        "failure": summary.failure.value if summary.failure else None,
        "finish_reason": summary.finish_reason,
        "stream_shape": summary.stream_shape,
        "client_address": summary.client_address,
        "user_agent": summary.user_agent,
        "credential": summary.credential,
        "request_bytes": summary.request_bytes,
        "response_bytes": summary.response_bytes,
        "chunk_count": summary.chunk_count,
        "ttfb_us": summary.ttfb_us,
        "ttft_us": summary.ttft_us,
        "duration_us": summary.duration_us,
        "input_tokens": summary.input_tokens,
        "cached_tokens": summary.cached_tokens,
        "output_tokens": summary.output_tokens,
        "thoughts_tokens": summary.thoughts_tokens,
        "total_tokens": summary.total_tokens,
        "price_nanousd": summary.price_nanousd,
        "conversation": str(summary.conversation) if summary.conversation else None,
        "parent": str(summary.parent) if summary.parent else None,
        "preview": summary.preview,
        "verdict": summary.verdict.value if summary.verdict else None,
        "saved_nanousd": summary.saved_nanousd,
    }


def hit_record(hit: Hit) -> dict[str, Any]:
    """A line of `search`: a line of `list` and the text around the match, the match between U+0002 and U+0003."""
    return {**summary_record(hit.summary), "snippet": hit.snippet}


def stats_record(row: StatsRow, group: str | None) -> dict[str, Any]:
    """A line of `stats`."""
    return {
        "group": group,
        "key": row.key,
        "exchanges": row.exchanges,
        "errors": row.errors,
        "input_tokens": row.input_tokens,
        "cached_tokens": row.cached_tokens,
        "output_tokens": row.output_tokens,
        "thoughts_tokens": row.thoughts_tokens,
        "total_tokens": row.total_tokens,
        "priced": row.priced,
        "unpriced": row.exchanges - row.priced,
        "total_nanousd": row.total_nanousd if row.priced else None,
        "request_bytes": row.request_bytes,
        "response_bytes": row.response_bytes,
        "duration_us_p50": row.duration_us_p50,
        "duration_us_p95": row.duration_us_p95,
        "duration_us_p99": row.duration_us_p99,
        "ttft_us_p50": row.ttft_us_p50,
        "ttft_us_p95": row.ttft_us_p95,
        "ttft_us_p99": row.ttft_us_p99,
        "cache_hits": row.cache_hits,
        "saved_nanousd": row.saved_nanousd,
        "saved_us": row.saved_us,
    }


def entry_record(entry: CacheEntry) -> dict[str, Any]:
    """A line of `cache list`."""
    return {
        "key": key_text(entry.key),
        "exchange": str(entry.exchange),
        "kind": entry.kind,
        "stored": iso_text(entry.stored_ns),
        "provider": entry.provider,
        "operation": entry.operation,
        "model": entry.model,
        "credential": entry.credential,
        "conversation": str(entry.conversation) if entry.conversation else None,
        "size_bytes": entry.size,
        "pinned": entry.pinned,
        "hits": entry.hits,
        "last_hit": None if entry.last_hit_ns is None else iso_text(entry.last_hit_ns),
        "saved_nanousd": entry.saved_nanousd,
        "saved_us": entry.saved_us,
    }


def cache_stats_record(stats: CacheStats) -> dict[str, Any]:
    """`cache stats`."""
    return {
        "entries": stats.entries,
        "errors": stats.errors,
        "pinned": stats.pinned,
        "answer_bytes": stats.answer_bytes,
        "hits": stats.hits,
        "saved_nanousd": stats.saved_nanousd,
        "saved_us": stats.saved_us,
        "oldest": None if stats.oldest_ns is None else iso_text(stats.oldest_ns),
    }


def exchange_record(exchange: Exchange) -> dict[str, Any]:
    """`show --json`: the whole exchange."""
    failure = exchange.failure
    return {
        "id": str(exchange.id),
        "started": iso_text(exchange.started_ns),
        "provider": exchange.provider,
        "operation": exchange.operation,
        "method": exchange.method,
        "target": exchange.target,
        "http_version": exchange.http_version,
        "upstream": exchange.upstream,
        "model": exchange.model,
        "model_version": exchange.model_version,
        "stream_shape": exchange.stream_shape,
        "client_address": exchange.client_address,
        "user_agent": exchange.user_agent,
        "credential": exchange.credential,
        "credential_source": exchange.credential_source,
        "status": exchange.status,
        "finish_reason": exchange.finish_reason,
        "response_id": exchange.response_id,
        "conversation": str(exchange.conversation) if exchange.conversation else None,
        "parent": str(exchange.parent) if exchange.parent else None,
        "timing": _timing(exchange.timing),
        "usage": _usage(exchange.usage),
        "price": _price(exchange.price),
        "request": {"headers": _headers(exchange.request_headers), "body": _body(exchange.request_body)},
        "response": _response(exchange.response),
        "failure": _failure(failure) if failure else None,
        "tunnel_bytes_up": exchange.tunnel_bytes_up,
        "tunnel_bytes_down": exchange.tunnel_bytes_down,
        "decode_error": exchange.decode_error,
        "cache": _cache_use(exchange.cache),
        "entry_key": None if exchange.entry_key is None else key_text(exchange.entry_key),
        "entry_kind": exchange.entry_kind,
    }


def _cache_use(use: CacheUse | None) -> dict[str, Any] | None:
    if use is None:
        return None
    return {
        "verdict": use.verdict.value,
        "key": None if use.key is None else key_text(use.key),
        "source": str(use.source) if use.source else None,
        "detail": use.detail,
        "saved_nanousd": use.saved_nanousd,
        "saved_us": use.saved_us,
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "request_done_us": timing.request_done_us,
        "connected_us": timing.connected_us,
        "first_byte_us": timing.first_byte_us,
        "first_content_us": timing.first_content_us,
        "last_byte_us": timing.last_byte_us,
    }


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "thoughts_tokens": usage.thoughts_tokens,
        "tool_use_tokens": usage.tool_use_tokens,
        "total_tokens": usage.total_tokens,
        "service_tier": usage.service_tier,
        "raw": usage.raw.decode(errors="replace"),
    }


def _price(price: Price | None) -> dict[str, Any] | None:
    if price is None:
        return None
    return {
        "input_nanousd": price.input_nanousd,
        "output_nanousd": price.output_nanousd,
        "total_nanousd": price.total_nanousd,
        "model_ref": price.model_ref,
    }


def _response(response: Response | None) -> dict[str, Any] | None:
    if response is None:
        return None
    return {
        "status": response.status,
        "reason": response.reason.decode("latin-1"),
        "headers": _headers(response.headers),
        "trailers": _headers(response.trailers),
        "body": _body(response.body),
        "chunks": [[chunk.offset_us, chunk.size] for chunk in response.chunks],
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind.value,
        "detail": failure.detail,
        "served_status": failure.served_status,
        "partial": failure.partial is not None,
    }


def _headers(headers: Headers) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _body(body: Body) -> dict[str, Any]:
    """The bytes as text where they are UTF-8, else as base64; `encoding` says which."""
    try:
        text, encoding = body.data.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = b64encode(body.data).decode(), "base64"
    return {
        "encoding": encoding,
        "data": text,
        "kept_bytes": len(body.data),
        "size_bytes": body.size,
        "digest": body.digest,
        "complete": body.complete,
        "redacted": body.redacted,
    }
