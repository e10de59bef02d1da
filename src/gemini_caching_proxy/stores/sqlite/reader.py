"""Reading: one exchange, lists, lookups. Each public method sees one state of the file, whatever is written meanwhile.

A list is found in two steps: keys through an index, then the summaries of one page by number. With filters on facet
fields the keys come from a short look into the index per facet, merged: a rare facet is found as fast as a common one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from uuid import UUID

import apsw

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange
from gemini_caching_proxy.stores.base import (
    CachedAnswer,
    CacheEntry,
    CacheStats,
    ChainMatch,
    EntryPage,
    EntryQuery,
    Gap,
    Hit,
    JournalPosition,
    Page,
    Query,
    StatsGroup,
    StatsRow,
    StoreSize,
    Summary,
)
from gemini_caching_proxy.stores.codec import Codec, unpack_numbers
from gemini_caching_proxy.stores.facets import FACET_FIELDS
from gemini_caching_proxy.stores.marks import chain_mark, response_mark
from gemini_caching_proxy.stores.phrases import snippet
from gemini_caching_proxy.stores.records import Columns, Dissected, restore

from .answers import Answers
from .connection import fetch_all, fetch_one, open_reader
from .expression import match_expression
from .facets import Facets
from .filters import conditions
from .pruning import file_bytes
from .search import Match, Matches
from .statistics import Statistics
from .summaries import read_summary, uuid_of

MOST_FACETS_APART = 1000
"""With more facets than this to look into, walking all exchanges by time is cheaper."""
FEW_KEYS = 8
FEW_EXCHANGES = 300
"""So many are asked for a word one by one, rather than all that hold the word for the filter."""
FOREVER = 2**63 - 1

_CURSOR_NUMBER = re.compile("[0-9a-f]{1,15}|[0-7][0-9a-f]{15}")

Key = tuple[int, int]
"""started_ns, sequence: the order of lists."""


class Reader:
    """Reads through a connection of its own. Calls come from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_reader(path)
        self._codec = Codec()
        self._facets = Facets()
        self._matches = Matches(self._connection, self._codec)
        self._statistics = Statistics(self._connection, self._facets)
        self._answers = Answers(self._connection, self._facets, self._codec, self._part)

    def __repr__(self) -> str:
        return f"<Reader {self._path} {self._facets!r}>"

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        """One state of the file, and the facets that it needs."""
        self._connection.execute("BEGIN")
        try:
            self._facets.refresh(self._connection)
            yield self._connection
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def get(self, exchange_id: UUID) -> Exchange:
        """See `ExchangeStore.get`."""
        with self._snapshot() as connection:
            row = fetch_one(
                connection,
                "SELECT e.sequence, e.started_ns, e.facet, e.finish_reason, e.conversation, d.target, d.client_address,"
                " d.parent, d.record, d.response, u.parts FROM exchanges e JOIN details d ON d.sequence = e.sequence"
                " JOIN uses u ON u.sequence = e.sequence WHERE e.id = ?",
                (exchange_id.bytes,),
            )
            if row is None:
                raise NotFound(f"No exchange has the id {exchange_id}.")
            _, started_ns, facet, finish, conversation, target, client, parent, record, response, parts = row
            columns = Columns(exchange_id, started_ns, target, client, finish, uuid_of(conversation), uuid_of(parent))
            cut = Dissected(
                list(unpack_numbers(parts, self._codec)), self._codec.unpack(record), self._codec.unpack(response)
            )
            return restore(columns, self._facets[facet], cut, self._part)

    def _part(self, number: int) -> tuple[bytes, bytes, str]:
        digest, size, packed = fetch_one(
            self._connection, "SELECT digest, size, data FROM parts WHERE id = ?", (number,)
        )
        return digest, *self._codec.unpack_part(packed, size)

    def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        """See `ExchangeStore.known`."""
        sql = "SELECT 1 FROM exchanges WHERE id = ?"
        with self._snapshot() as connection:
            return frozenset(each for each in ids if fetch_one(connection, sql, (each.bytes,)) is not None)

    def resolve(self, prefix: str) -> UUID:
        """See `ExchangeStore.resolve`."""
        digits = prefix.replace("-", "").lower()
        if not digits or len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):
            raise NotFound(f"{prefix!r} is no part of an exchange's id: 1 to 32 hex digits are.")
        with self._snapshot():
            found = self._starting_with(digits) or self._ending_in(digits)
        if len(found) != 1:
            how_many = "No exchange has" if not found else "More than one exchange has"
            raise NotFound(f"{how_many} an id that starts with or ends in {prefix}.")
        return found[0]

    def _starting_with(self, digits: str) -> list[UUID]:
        first, last = bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))
        rows = self._connection.execute("SELECT id FROM exchanges WHERE id BETWEEN ? AND ? LIMIT 2", (first, last))
        return [UUID(bytes=key) for (key,) in rows]

    def _ending_in(self, digits: str) -> list[UUID]:
        # Walks the index of ids. Whole bytes are compared in SQL; an odd digit in front is checked here.
        whole = len(digits) // 2
        tail = bytes.fromhex(digits[len(digits) - 2 * whole :])
        found: list[UUID] = []
        for (key,) in self._connection.execute(
            "SELECT id FROM exchanges INDEXED BY exchanges_by_id WHERE substr(id, ?) = ?", (17 - whole, tail)
        ):
            if key.hex().endswith(digits):
                found.append(UUID(bytes=key))
            if len(found) > 1:
                break
        return found

    def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        """See `ExchangeStore.find_chain_tips`."""
        with self._snapshot():
            found = {tip: self._marked(chain_mark(tip, scope)) for tip in tips}
        return {tip: match for tip, match in found.items() if match is not None}

    def find_response_id(self, response_id: str) -> ChainMatch | None:
        """See `ExchangeStore.find_response_id`."""
        with self._snapshot():
            return self._marked(response_mark(response_id))

    def _marked(self, mark: bytes) -> ChainMatch | None:
        row = fetch_one(
            self._connection,
            "SELECT e.id, e.conversation FROM marks m JOIN exchanges e ON e.sequence = m.sequence WHERE m.mark = ?"
            " ORDER BY m.started_ns DESC, m.sequence DESC LIMIT 1",
            (mark,),
        )
        return None if row is None else ChainMatch(UUID(bytes=row[0]), UUID(bytes=row[1] or row[0]))

    def page(self, query: Query, limit: int, cursor: str | None) -> Page:
        """See `ExchangeStore.list`."""
        with self._snapshot():
            if query.contains is not None:
                return self._list_matching(query.contains, query, limit, cursor)
            before = _parse_cursor(cursor, "t", 2)
            keys = self._newest(query, (before[0], before[1]), limit + 1)
            following = "t.{:x}.{:x}".format(*keys[limit - 1]) if len(keys) > limit else None
            return Page(tuple(self._summary(sequence) for _, sequence in keys[:limit]), following)

    def _list_matching(self, text: str, query: Query, limit: int, cursor: str | None) -> Page:
        (before,) = _parse_cursor(cursor, "m", 1)
        matches = self._matching(text, replace(query, contains=None), before=before, limit=limit + 1)
        following = f"m.{matches[limit - 1].resume_before:x}" if len(matches) > limit else None
        return Page(tuple(self._summary(match.sequence) for match in matches[:limit]), following)

    def _newest(self, query: Query, before: Key, limit: int) -> list[Key]:
        facets = self._facets.matching(query)
        if facets is None or query.conversation is not None or len(facets) > MOST_FACETS_APART:
            return self._keys(query, facets, before, limit)
        return self._newest_of(facets, replace(query, **dict.fromkeys(FACET_FIELDS)), before, limit)

    def _newest_of(self, facets: Sequence[int], query: Query, before: Key, limit: int) -> list[Key]:
        """Merge what each facet has: few keys of each at first, all of those whose few were all among the newest."""
        few = FEW_KEYS + 2 * limit // (len(facets) or 1)
        found = {facet: self._keys(query, None, before, min(few, limit), facet=facet) for facet in facets}
        last = sorted(chain.from_iterable(found.values()), reverse=True)[:limit][-1:]
        for facet, keys in found.items():
            if len(keys) == few < limit and keys[-1:] >= last:
                found[facet] = self._keys(query, None, before, limit, facet=facet)
        return sorted(chain.from_iterable(found.values()), reverse=True)[:limit]

    def _keys(
        self, query: Query, facets: Sequence[int] | None, before: Key, limit: int, *, facet: int | None = None
    ) -> list[Key]:
        chosen = conditions(query, facets)
        one, number = ("e.facet = ?", (facet,)) if facet is not None else ("1", ())
        return fetch_all(
            self._connection,
            f"SELECT e.started_ns, e.sequence FROM exchanges e WHERE {one} AND {chosen.sql}"  # noqa: S608
            " AND (e.started_ns, e.sequence) < (?, ?) ORDER BY e.started_ns DESC, e.sequence DESC LIMIT ?",
            (*number, *chosen.parameters, *before, limit),
        )

    def after(self, sequence: int, query: Query, limit: int) -> tuple[Summary, ...]:
        """See `ExchangeStore.after`."""
        with self._snapshot() as connection:
            chosen = conditions(query, self._facets.matching(query), words_after=sequence)
            found = fetch_all(
                connection,
                f"SELECT e.sequence FROM exchanges e WHERE e.sequence > ? AND {chosen.sql}"  # noqa: S608
                " ORDER BY e.sequence LIMIT ?",
                (sequence, *chosen.parameters, limit),
            )
            return tuple(self._summary(number) for (number,) in found)

    def last_sequence(self) -> int:
        """The newest exchange's number, 0 for an empty store."""
        with self._snapshot() as connection:
            return int(connection.execute("SELECT ifnull(max(sequence), 0) FROM exchanges").get)

    def search(self, text: str, query: Query, limit: int) -> tuple[Hit, ...]:
        """See `ExchangeStore.search`."""
        with self._snapshot():
            matches = self._matching(text, query, limit=limit, last_is_prefix=True)
            return tuple(
                Hit(self._summary(match.sequence), snippet(self._matches.text(match), text)) for match in matches
            )

    def stats(self, query: Query, group: StatsGroup | None) -> tuple[StatsRow, ...]:
        """See `ExchangeStore.stats`."""
        with self._snapshot():
            return self._statistics.rows(query, group)

    def positions(self) -> Mapping[str, JournalPosition]:
        """See `ExchangeStore.positions`."""
        with self._snapshot() as connection:
            rows = fetch_all(connection, "SELECT journal, segment, offset FROM positions")
        return {journal: JournalPosition(journal, segment, offset) for journal, segment, offset in rows}

    def gaps(self) -> tuple[Gap, ...]:
        """See `ExchangeStore.gaps`."""
        with self._snapshot() as connection:
            rows = fetch_all(connection, "SELECT exchanges, first_ns, last_ns, reason FROM gaps ORDER BY first_ns")
        return tuple(Gap(*row) for row in rows)

    def size(self) -> StoreSize:
        """See `ExchangeStore.size`."""
        with self._snapshot() as connection:
            exchanges, parts, body_bytes = fetch_one(connection, "SELECT exchanges, parts, body_bytes FROM state")
        return StoreSize(exchanges, parts, file_bytes(self._path), body_bytes)

    def find_cached(self, keys: Sequence[bytes]) -> CachedAnswer | None:
        """See `ExchangeStore.find_cached`."""
        if not any(map(self._answers.has, keys)):
            return None
        with self._snapshot():
            return self._answers.find(keys)

    def entries(self, query: EntryQuery, limit: int, cursor: str | None) -> EntryPage:
        """See `ExchangeStore.entries`."""
        with self._snapshot():
            return self._answers.page(query, limit, cursor)

    def resolve_entry(self, prefix: str) -> CacheEntry:
        """See `ExchangeStore.resolve_entry`."""
        with self._snapshot():
            return self._answers.resolve(prefix)

    def cache_stats(self) -> CacheStats:
        """See `ExchangeStore.cache_stats`."""
        with self._snapshot():
            return self._answers.stats()

    def part_owners(self, digests: Sequence[bytes], limit: int) -> tuple[UUID, ...]:
        """See `ExchangeStore.part_owners`."""
        with self._snapshot():
            return self._answers.part_owners(digests, limit)

    def _matching(
        self, text: str, query: Query, *, before: int = FOREVER, limit: int, last_is_prefix: bool = False
    ) -> list[Match]:
        expression = match_expression(text, last_is_prefix=last_is_prefix)
        if expression is None:
            return []
        rare = self._rare(query)
        if rare is not None:
            return self._matches.among(expression, rare, before=before, limit=limit)
        chosen = conditions(query, self._facets.matching(query))
        return self._matches.find(expression, chosen, before=before, limit=limit)

    def _rare(self, query: Query) -> Sequence[int] | None:
        """The exchanges that a query leaves, if they are few enough to ask each for a word; None if it leaves many."""
        if query.contains is not None or query == Query():
            return None
        keys = self._newest(query, (FOREVER, FOREVER), FEW_EXCHANGES + 1)
        return None if len(keys) > FEW_EXCHANGES else [sequence for _, sequence in keys]

    def _summary(self, sequence: int) -> Summary:
        return read_summary(self._connection, self._facets, self._codec, sequence)


def _parse_cursor(cursor: str | None, kind: str, numbers: int) -> list[int]:
    """The numbers of a cursor of this kind; the very top for none. Raises ValueError."""
    if cursor is None:
        return [FOREVER] * numbers
    found, *fields = cursor.split(".")
    if found != kind or len(fields) != numbers or not all(map(_CURSOR_NUMBER.fullmatch, fields)):
        raise ValueError(f"{cursor!r} is no cursor for this query.")
    return [int(field, 16) for field in fields]
