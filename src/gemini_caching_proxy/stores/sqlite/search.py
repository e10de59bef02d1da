"""Finding exchanges by their words, newest taken in first, without gathering all matches.

A text's number in the index tells its exchange: the number of the exchange itself, or of a part that it brought in;
these directly follow the exchange's own. So matches in falling order of number are exchanges in falling order, each
exchange's matches side by side, and a page ends as soon as it is full. One exception: when pruning deletes the exchange
that brought a part in, the part goes to the next that uses it, whose number is higher than the part's. Such a match is
a straggler. It counts only if the exchange has no match that came earlier in the walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apsw

from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.records import stored_text

from .connection import fetch_all, fetch_one
from .filters import Filter

_WALK = (
    "SELECT w.rowid, e.sequence FROM words w LEFT JOIN parts p ON p.id = w.rowid"
    " CROSS JOIN exchanges e ON e.sequence = ifnull(p.owner, w.rowid)"
    " WHERE w.words MATCH ? AND w.rowid < ? AND {} ORDER BY w.rowid DESC"
)


@dataclass(frozen=True, slots=True)
class Match:
    number: int
    """Of the text: an exchange's or a part's."""
    sequence: int
    """Of the exchange."""

    @property
    def resume_before(self) -> int:
        """The walk goes on below this number without meeting the same exchange, stragglers aside."""
        return min(self.number, self.sequence)


class Matches:
    """Walks the index on one connection."""

    def __init__(self, connection: apsw.Connection, codec: Codec) -> None:
        self._connection = connection
        self._codec = codec

    def find(self, expression: str, chosen: Filter, *, before: int, limit: int) -> list[Match]:
        """The first `limit` matching exchanges whose match has a number below `before`."""
        found: list[Match] = []
        for match in self._walk(expression, chosen, before):
            found.append(match)
            if len(found) >= limit:
                break
        return found

    def _walk(self, expression: str, chosen: Filter, before: int) -> Iterator[Match]:
        last = -1
        rows = self._connection.execute(_WALK.format(chosen.sql), (expression, before, *chosen.parameters))
        for number, sequence in rows:
            is_straggler = sequence > number
            if sequence == last or (is_straggler and self._found_before(expression, number, sequence)):
                continue
            last = sequence
            yield Match(number, sequence)

    def among(self, expression: str, sequences: Sequence[int], *, before: int, limit: int) -> list[Match]:
        """As `find`, for a few exchanges that are known to pass the filter: their texts are asked one by one."""
        found = [Match(number, each) for each in sequences if (number := self._highest(expression, each)) is not None]
        later = sorted((match for match in found if match.number < before), key=lambda match: -match.number)
        return later[:limit]

    def _highest(self, expression: str, sequence: int) -> int | None:
        """The highest number of a matching text of an exchange: where the walk would meet it."""
        parts = fetch_all(self._connection, "SELECT id FROM parts WHERE owner = ?", (sequence,))
        numbers = sorted((sequence, *(part for (part,) in parts)), reverse=True)
        return next((number for number in numbers if self._holds(expression, number)), None)

    def _holds(self, expression: str, number: int) -> bool:
        """Whether this one text matches."""
        sql = "SELECT 1 FROM words WHERE words MATCH ? AND rowid = ?"
        return fetch_one(self._connection, sql, (expression, number)) is not None

    def _found_before(self, expression: str, number: int, sequence: int) -> bool:
        """Whether another text of this exchange matches and has a higher number."""
        return self._highest(expression, sequence) != number

    def text(self, match: Match) -> str:
        """The text that matched, so far as it is kept."""
        if match.number == match.sequence:
            record, response = fetch_one(
                self._connection, "SELECT record, response FROM details WHERE sequence = ?", (match.sequence,)
            )
            return stored_text(self._codec.unpack(record), self._codec.unpack(response))
        size, packed = fetch_one(self._connection, "SELECT size, data FROM parts WHERE id = ?", (match.number,))
        return self._codec.unpack_part(packed, size)[1]
