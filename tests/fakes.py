"""Stand-ins and makers shared by tests: records of exchanges, a store in memory, a provider that reads plain lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import uuid_utils
from blake3 import blake3

from gemini_caching_proxy.errors import NotFound
from gemini_caching_proxy.exchange import Exchange, Headers, Piece, StreamShape, Usage
from gemini_caching_proxy.journal import Begin, Chunk, End, Record, RequestChunk, ResponseHead
from gemini_caching_proxy.providers.base import (
    CacheKind,
    CacheSubject,
    Decoded,
    Endings,
    Normalise,
    Rendering,
    Route,
)
from gemini_caching_proxy.stores.base import AddResult, ChainMatch, Gap, JournalPosition

START_NS = 1_750_000_000_000_000_000
MS = 1_000_000


def new_id(at_ns: int = START_NS) -> bytes:
    """A UUIDv7 of that time, 16 bytes."""
    random = uuid_utils.uuid7().int & ((1 << 76) - 1)
    return (at_ns // MS << 80 | 7 << 76 | random).to_bytes(16, "big")


def exchange_records(
    request: bytes = b"hello",
    response: Sequence[bytes] = (b"world",),
    *,
    id: bytes | None = None,
    at_ms: int = 0,
    lasts_ms: int = 10,
    pieces: int = 1,
    status: int = 200,
    credential: str | None = "key-1",
    operation: str = "generate_content",
    failure: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
    provider: str = "lines",
    target: str = "/v1beta/models/m:generateContent",
) -> list[Record]:
    """The records of one exchange, from `at_ms` after START_NS on, its request in `pieces` pieces."""
    started_ns = START_NS + at_ms * MS
    id = new_id(started_ns) if id is None else id
    size = max(1, -(-len(request) // pieces))
    parts = [request[start : start + size] for start in range(0, len(request), size)] or [b""]
    begin = Begin(
        id, started_ns, "127.0.0.1:5000", "POST", target, "1.1",
        [(b"user-agent", b"tests/1"), (b"content-length", str(len(request)).encode())],
        provider, operation, "m", "https://upstream.test", credential, "client" if credential else "none", False,
        parts[0], 5 if len(parts) == 1 else None,
    )  # fmt: skip
    step = lasts_ms * 1000 // (len(response) + 2)
    return [
        begin,
        *(RequestChunk(id, 10 + index, part) for index, part in enumerate(parts[1:])),
        ResponseHead(id, step, status, b"OK", [tuple(pair) for pair in headers]),
        *(Chunk(id, step * (index + 1) + 1, part) for index, part in enumerate(response)),
        End(id, lasts_ms * 1000, 7, 50, len(request), sum(map(len, response)), failure),
    ]


class LinesProvider:
    """A request is lines, each a part of the conversation; `#id X` and `#after X` name answers; `POISON` explodes."""

    name = "lines"

    def route(self, method: bytes, target: bytes) -> Route:
        raise NotImplementedError

    def render(self, operation: str, request_body: bytes, response_headers: Headers, response_body: bytes) -> Rendering:
        raise NotImplementedError

    def decode(
        self,
        route_operation: str,
        request_body: bytes,
        status: int | None,
        response_headers: Headers,
        response_body: bytes,
    ) -> Decoded:
        if b"POISON" in request_body:
            raise RecursionError("too deep")
        lines = request_body.splitlines(keepends=True)
        parts = tuple(Piece(line, blake3(line.strip()).digest(16), line.decode().strip()) for line in lines)
        after = [line.split()[1].decode() for line in lines if line.startswith(b"#after")]
        ids = [line.split()[1].decode() for line in response_body.splitlines() if line.startswith(b"#id")]
        return Decoded(
            request_pieces=parts,
            conversation=tuple(part.digest or b"" for part in parts),
            response_text=response_body.decode("utf-8", "replace"),
            usage=Usage(input_tokens=len(lines)),
            response_id=ids[0] if ids else None,
            previous_response_id=after[0] if after else None,
        )

    def cache_kind(self, operation: str) -> CacheKind | None:
        return "generation" if operation == "generate_content" else None

    def may_be_deterministic(self, operation: str, body: bytes) -> bool:
        return True

    def cache_subject(
        self,
        operation: str,
        model: str | None,
        target: str,
        headers: Headers,
        body: bytes,
        normalise: Normalise | None = None,
    ) -> CacheSubject | str:
        return CacheSubject(operation, model or "", "generation", body)

    def reshape(self, operation: str, body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
        return (body,) if have == want else None

    def endings(self, operation: str, headers: Headers, body: bytes) -> Endings:
        return Endings(True, ("STOP",))


@dataclass
class MemoryData:
    """What outlives a store's object: the file, so to speak."""

    exchanges: dict[UUID, Exchange] = field(default_factory=dict)
    positions: dict[str, JournalPosition] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


class MemoryStore:
    """What the recorder needs of an ExchangeStore. `trouble(operation)` may raise, before or after the work is done."""

    def __init__(self, data: MemoryData, trouble: Callable[[str], None] = lambda _: None) -> None:
        self.data = data
        self._trouble = trouble

    async def open(self, *, read_only: bool = False) -> None:
        self._trouble("open")

    async def aclose(self) -> None:
        pass

    async def add(
        self, exchanges: Sequence[Exchange], positions: Sequence[JournalPosition] = (), *, more: bool = False
    ) -> AddResult:
        self._trouble("add")
        for exchange in exchanges:
            exchange.response_text.encode()  # as any database: no lone surrogates
        new = [exchange for exchange in exchanges if exchange.id not in self.data.exchanges]
        self.data.exchanges.update((exchange.id, exchange) for exchange in new)
        self.data.positions.update((at.journal, at) for at in positions)
        self._trouble("added")
        return AddResult(len(new), len(exchanges) - len(new))

    async def add_gap(self, gap: Gap, positions: Sequence[JournalPosition] = ()) -> None:
        self._trouble("add_gap")
        if gap not in self.data.gaps:
            self.data.gaps.append(gap)

    async def positions(self) -> Mapping[str, JournalPosition]:
        self._trouble("positions")
        return dict(self.data.positions)

    async def forget_journal(self, journal: str) -> None:
        self._trouble("forget_journal")
        self.data.positions.pop(journal, None)

    async def get(self, exchange_id: UUID) -> Exchange:
        self._trouble("get")
        if exchange_id not in self.data.exchanges:
            raise NotFound(str(exchange_id))
        return self.data.exchanges[exchange_id]

    async def known(self, ids: Sequence[UUID]) -> frozenset[UUID]:
        self._trouble("known")
        return frozenset(ids) & self.data.exchanges.keys()

    async def find_chain_tips(self, tips: Sequence[bytes], scope: str) -> Mapping[bytes, ChainMatch]:
        self._trouble("find_chain_tips")
        return {
            each.chain[-1]: ChainMatch(each.id, each.conversation)
            for each in self.data.exchanges.values()
            if each.chain and each.chain[-1] in tips and (each.credential or "") == scope and each.conversation
        }

    async def find_response_id(self, response_id: str) -> ChainMatch | None:
        self._trouble("find_response_id")
        for each in self.data.exchanges.values():
            if each.response_id == response_id and each.conversation:
                return ChainMatch(each.id, each.conversation)
        return None
