"""Which exchange extends which: threads found from the parts of requests alone, with no help from the client.

Every request that carries a conversation has a chain of hashes, one per part, each covering all parts up to it. A
request extends the exchange whose *whole* chain is the longest proper prefix of its own, within one credential. So
forks share a conversation, an exact retry has the same parent as what it retries, and identical first turns are
conversations of their own. Where several exchanges fit, one that had ended before this one began is taken, before
others one that succeeded, then one whose answer is what the client quotes next, then the newest.

Decides only; the store's part of the memory is asked through `questions` and given back through `Found`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

from .exchange import Exchange
from .stores.base import ChainMatch

REMEMBERED_TIPS = 20_000
"""Chain ends kept in memory: the threads that are going on."""
CANDIDATES_PER_TIP = 8
HASH_BYTES = 16


def chain_of(provider: str, parts: Sequence[bytes], continues: str | None = None) -> tuple[bytes, ...]:
    """The hash chain over part digests; `continues` is the id of an answer that the request builds on unseen."""
    link = blake3(f"chain1:{provider}:{continues or ''}".encode()).digest(HASH_BYTES)
    chain = []
    for part in parts:
        link = blake3(link + part).digest(HASH_BYTES)
        chain.append(link)
    return tuple(chain)


@dataclass(frozen=True, slots=True)
class Turn:
    """A decoded exchange before its place is known."""

    exchange: Exchange
    """With its `chain`; empty = it neither starts nor joins a thread."""
    continues: str | None = None
    """Id of the answer it says it continues."""
    part_texts: tuple[str, ...] = ()
    """Text of the conversation parts, in order, as far as known."""

    @property
    def scope(self) -> str:
        return self.exchange.credential or ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the store knew."""

    tips: Mapping[tuple[str, bytes], ChainMatch] = field(default_factory=dict)
    """By scope and chain end."""
    response_ids: Mapping[str, ChainMatch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Questions:
    """What must be asked of the store before turns can be placed."""

    tips: Mapping[str, tuple[bytes, ...]]
    """By scope."""
    response_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    match: ChainMatch
    ended_ns: int
    succeeded: bool
    answer: bytes
    """Digest of the answer's text; empty for none."""


class Threads:
    """The memory of running conversations."""

    def __init__(self, capacity: int = REMEMBERED_TIPS) -> None:
        self._capacity = capacity
        self._tips: OrderedDict[tuple[str, bytes], list[_Candidate]] = OrderedDict()
        self._answers: OrderedDict[str, ChainMatch] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Threads {len(self._tips)} tips, {len(self._answers)} answers>"

    def forget(self) -> None:
        """Drop everything: the store behind it is another one now."""
        self._tips.clear()
        self._answers.clear()

    def questions(self, turns: Sequence[Turn]) -> Questions:
        """What the store alone can know: prefixes longer than the longest one that is remembered."""
        tips: dict[str, dict[bytes, None]] = {}
        coming: set[tuple[str, bytes]] = set()
        response_ids: dict[str, None] = {}
        for turn in turns:
            if turn.continues and turn.continues not in self._answers:
                response_ids[turn.continues] = None
            chain, scope = turn.exchange.chain, turn.scope
            for tip in reversed(chain[:-1]):
                if (scope, tip) in coming or (scope, tip) in self._tips:
                    break
                tips.setdefault(scope, {})[tip] = None
            if chain:
                coming.add((scope, chain[-1]))
        return Questions({scope: tuple(asked) for scope, asked in tips.items()}, tuple(response_ids))

    def place(self, turns: Sequence[Turn], found: Found) -> list[Exchange]:
        """The exchanges with conversation and parent, in the order given, and remembered from now on."""
        return [self._place(turn, found) for turn in turns]

    def _place(self, turn: Turn, found: Found) -> Exchange:
        exchange = turn.exchange
        if not exchange.chain and not turn.continues:
            return exchange
        match = self._parent(turn, found)
        if match is not None:
            exchange = replace(exchange, conversation=match.conversation, parent=match.exchange)
        else:
            exchange = replace(exchange, conversation=exchange.id)
        self._remember(turn.scope, exchange)
        return exchange

    def _parent(self, turn: Turn, found: Found) -> ChainMatch | None:
        if turn.continues:
            known = self._answers.get(turn.continues) or found.response_ids.get(turn.continues)
            if known is not None and known.exchange != turn.exchange.id:
                return known
        chain = turn.exchange.chain
        for length in range(len(chain) - 1, 0, -1):
            key = (turn.scope, chain[length - 1])
            match = self._choose(turn, length, self._tips.get(key, ()))
            if match is None and (stored := found.tips.get(key)) is not None and _may_precede(stored, turn.exchange):
                match = stored
            if match is not None:
                return match
        return None

    def _choose(self, turn: Turn, length: int, candidates: Sequence[_Candidate]) -> ChainMatch | None:
        exchange = turn.exchange
        fitting = [
            each for each in candidates if each.ended_ns <= exchange.started_ns and each.match.exchange != exchange.id
        ]
        if len(fitting) < 2:
            return fitting[0].match if fitting else None
        quoted = _text_digest(turn.part_texts[length]) if length < len(turn.part_texts) else b""
        best = max(fitting, key=lambda each: (each.succeeded, bool(quoted) and each.answer == quoted, each.ended_ns))
        return best.match

    def _remember(self, scope: str, exchange: Exchange) -> None:
        assert exchange.conversation is not None
        match = ChainMatch(exchange.id, exchange.conversation)
        if exchange.chain:
            key = (scope, exchange.chain[-1])
            candidates = self._tips.setdefault(key, [])
            self._tips.move_to_end(key)
            ended_ns = exchange.started_ns + (exchange.timing.last_byte_us or 0) * 1000
            candidates.append(_Candidate(match, ended_ns, not exchange.is_error, _text_digest(exchange.response_text)))
            del candidates[:-CANDIDATES_PER_TIP]
            if len(self._tips) > self._capacity:
                self._tips.popitem(last=False)
        if exchange.response_id:
            self._answers[exchange.response_id] = match
            self._answers.move_to_end(exchange.response_id)
            if len(self._answers) > self._capacity:
                self._answers.popitem(last=False)


def _may_precede(match: ChainMatch, exchange: Exchange) -> bool:
    """Ids are UUIDv7: their first 48 bits are the millisecond of their making."""
    return match.exchange != exchange.id and match.exchange.int >> 80 <= exchange.started_ns // 1_000_000


def _text_digest(text: str) -> bytes:
    """Clients quote an answer with its whitespace changed at the ends, hardly ever within."""
    stripped = text.strip()
    return blake3(stripped.encode("utf-8", "surrogatepass")).digest(HASH_BYTES) if stripped else b""
