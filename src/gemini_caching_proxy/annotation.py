"""What is said about one request: in `Cache-Status` (RFC 9211) for its client, and in its record."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from .cache.answers import RecordedAnswer
from .cache.status import cache_status
from .exchange import Verdict


class Note(NamedTuple):
    """A verdict, in the words for the client and for the record."""

    verdict: Verdict
    line: bytes
    """Head lines for the client."""
    stored_line: bytes
    """The same for an answer that is being kept."""
    detail: str = ""
    key: bytes | None = None
    source: bytes | None = None
    source_us: int | None = None


def bypass(detail: str, *, unserved: bool = False) -> Note:
    """On a request that the record is not asked about.

    `unserved`: it is not forwarded either.
    """
    line = _line(cache_status(fwd="" if unserved else "bypass", detail=detail))
    return Note(Verdict.BYPASS, line, line, detail)


def refetch(key: bytes, ttl_s: float | None) -> Note:
    """On a request whose client wants a new answer. `ttl_s`: how long it will be served; None if it is not kept."""
    line = _line(cache_status(fwd="request", key=key, detail="no-cache"))
    stored = _line(cache_status(fwd="request", stored=True, ttl_s=ttl_s, key=key, detail="no-cache"))
    return Note(Verdict.BYPASS, line, line if ttl_s is None else stored, "no-cache", key)


def miss(verdict: Verdict, key: bytes, ttl_s: float | None) -> Note:
    """On a request that goes on because nothing recorded serves it (`MISS`, `STALE`). `ttl_s` as for `refetch`."""
    fwd = "stale" if verdict == Verdict.STALE else "miss"
    line = _line(cache_status(fwd=fwd, key=key))
    stored = _line(cache_status(fwd=fwd, stored=True, ttl_s=ttl_s, key=key))
    return Note(verdict, line, line if ttl_s is None else stored, "", key)


def collapsed(key: bytes, ttl_s: float, source: bytes) -> Note:
    """On a request that is answered by another's upstream call, recorded as `source` (empty: not recorded)."""
    ids = _source_line(source) if source else b""
    line = ids + _line(cache_status(fwd="miss", collapsed=True, key=key))
    stored = ids + _line(cache_status(fwd="miss", collapsed=True, stored=True, ttl_s=ttl_s, key=key))
    return Note(Verdict.COLLAPSED, line, stored, "", key, source or None)


def hit(answer: RecordedAnswer, *, date: bytes, age_s: int, ttl_s: float | None) -> Note:
    """On a request that a recorded answer serves. `ttl_s`: how long it still will; None for ever."""
    detail = "" if answer.kind == "answer" else "a recorded error"
    status = _line(cache_status(hit=True, ttl_s=ttl_s, key=answer.key, detail=detail))
    lines = b"Date: %b\r\nAge: %d\r\n%b%b" % (date, age_s, _source_line(answer.exchange), status)
    return Note(Verdict.HIT, lines, lines, detail, answer.key, answer.exchange, answer.duration_us)


def nothing_recorded(verdict: Verdict, key: bytes, why: str) -> Note:
    """On a request that only a recorded answer could serve, and none does."""
    line = _line(cache_status(key=key, detail=why))
    return Note(verdict, line, line, why, key)


def _source_line(source: bytes) -> bytes:
    return b"X-Source-Exchange-Id: %b\r\n" % str(UUID(bytes=source)).encode()


def _line(value: bytes) -> bytes:
    return b"Cache-Status: " + value + b"\r\n"
