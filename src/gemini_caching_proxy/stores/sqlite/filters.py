"""A query as SQL conditions over `exchanges e`. Values are only ever parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gemini_caching_proxy.stores.base import Query

from .expression import match_expression

_MATCHING = (
    "SELECT ifnull(p.owner, w.rowid) FROM words w LEFT JOIN parts p ON p.id = w.rowid"
    " WHERE w.words MATCH ? AND w.rowid > ?"
)
"""Exchanges that a full-text expression finds: by their own text, or by a part that they brought in."""


@dataclass(frozen=True, slots=True)
class Filter:
    """`sql` is conditions joined by AND, never empty."""

    sql: str
    parameters: tuple[int | bytes | str, ...]


def conditions(query: Query, facets: Sequence[int] | None, *, words_after: int = 0) -> Filter:
    """All of `query`; `facets` are the numbers that its facet fields allow, None for all.

    Args:
        words_after: look for `contains` only in texts with a higher number.
    """
    found: list[tuple[str, tuple[int | bytes | str, ...]]] = []
    if query.since_ns is not None:
        found.append(("e.started_ns >= ?", (query.since_ns,)))
    if query.until_ns is not None:
        found.append(("e.started_ns < ?", (query.until_ns,)))
    if query.conversation is not None:
        found.append(("e.conversation = ?", (query.conversation.bytes,)))
    if facets is not None:
        numbers = msgspec.json.encode(facets).decode()
        found.append(("+e.facet IN (SELECT value FROM json_each(?))", (numbers,)))
    if query.contains is not None:
        expression = match_expression(query.contains)
        if expression is None:
            found.append(("0", ()))
        else:
            found.append((f"e.sequence IN ({_MATCHING})", (expression, words_after)))
    sql = " AND ".join(condition for condition, _ in found)
    return Filter(sql or "1", tuple(value for _, values in found for value in values))
