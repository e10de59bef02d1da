"""The contract of a provider: where a request goes, and what its bodies say.

`route` runs in the worker for every request and must not parse a body. Everything else runs in the recorder, takes
bytes as they were on the wire with the content-coding removed, and never raises on bad input: what cannot be read is
told in `Decoded.error`, and the rest is still filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gemini_caching_proxy.exchange import Headers, Piece, StreamShape, Usage


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes and what it asks."""

    provider: str
    operation: str
    """`generate_content`, `stream_generate_content`, `embed_content`, … or `unknown`."""
    model: str | None
    upstream_target: bytes
    """Path and query to ask the upstream for, before credentials are settled and without its base path."""
    prefix: bytes = b""
    """Path in front of the API's own path in the client's URL (`/team-a`), to be put into rewritten URLs."""
    credential_style: str = "x-goog-api-key"
    """How a key that the proxy puts in is carried: `x-goog-api-key` or `bearer`."""
    needs_no_credential: bool = False
    """Upload and download calls whose URL is itself the credential: never put a key in."""
    withhold_response: bool = False
    """The answer is itself a secret (ephemeral tokens, signing secrets): record its size and hash only."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the bodies of one exchange say."""

    stream_shape: StreamShape = "unary"
    model: str | None = None
    """The model asked for, where only the request's body names it."""
    model_version: str | None = None
    response_id: str | None = None
    previous_response_id: str | None = None
    """Id of the answer that the request says it continues."""
    finish_reason: str | None = None
    usage: Usage | None = None
    complete: bool = False
    """Whether the provider's own end-of-answer marker was seen."""
    error_message: str | None = None
    """The provider's error text, also when it came inside a 200 stream."""
    first_content_event: int | None = None
    """Index of the body byte that begins the first event bearing content; None = none or unary."""
    request_pieces: tuple[Piece, ...] = ()
    response_pieces: tuple[Piece, ...] = ()
    conversation: tuple[bytes, ...] = ()
    """Digests of the conversation parts (elements of `contents`, `messages`, `input`) in order; empty = none."""
    request_text: str = ""
    response_text: str = ""
    error: str | None = None
    """Why something could not be read."""


@dataclass(frozen=True, slots=True)
class Endings:
    """How an answer ended, candidate by candidate."""

    complete: bool
    """The provider's own end marker was seen, and no error."""
    finish_reasons: tuple[str, ...] = ()
    """The last one of each candidate, choice or output; empty for answers that are not generated."""
    error: str | None = None
    """The provider's error text inside an answer of status 200."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One conversation turn for people: a message of the request, or the answer."""

    role: str
    """`system`, `user`, `model`, `tool`."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Block:
    kind: str
    """`text`, `thought`, `tool_call`, `tool_result`, `media`, `code`, `other`."""
    text: str
    """The text, or for a call its arguments as JSON, for media a line such as `image/png, 12 KB`."""
    name: str = ""
    """Tool name, MIME type."""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Rendering:
    """An exchange as a conversation: what was asked (all of it) and what came."""

    request: tuple[Turn, ...] = ()
    response: tuple[Turn, ...] = ()
    tools: tuple[str, ...] = ()
    """Names of the tools on offer."""
    parameters: tuple[tuple[str, str], ...] = field(default=())
    """Generation settings, name and JSON value."""


CacheKind = Literal["listing", "tokens", "embedding", "generation"]
"""What an operation's answers are to a cache: listings of models, counts of tokens, embeddings, generated answers."""


@dataclass(frozen=True, slots=True)
class CacheSubject:
    """What a request asks for, freed from how its client happened to write it: equal subjects, equal answers."""

    operation: str
    """One for all shapes: `generate_content` also for `stream_generate_content`."""
    model: str
    """Empty for listings."""
    kind: CacheKind
    body: bytes
    """Canonical JSON (keys sorted, no spaces, UTF-8); empty for listings."""
    variant: str = ""
    """What else changes the answer: resource path, query, enum encoding, field masks; a canonical string."""
    shape: StreamShape = "unary"
    """How the client wants the answer; not part of what is asked where answers can be put into other shapes."""
    deterministic: bool = True
    """Whether the same answer is to be expected again: no generation, or one with temperature 0."""
    depends_on: str = ""
    """What the answer depends on besides the request, such as `tool googleSearch` or `a file`; empty for nothing."""


Normalise = Callable[[Any], Any]
"""Canonical JSON value -> the same with volatile bits replaced (cache/normalisers.py)."""


class Provider(Protocol):
    name: str

    def route(self, method: bytes, target: bytes) -> Route: ...

    def decode(
        self,
        route_operation: str,
        request_body: bytes,
        status: int | None,
        response_headers: Headers,
        response_body: bytes,
    ) -> Decoded: ...

    def render(
        self, operation: str, request_body: bytes, response_headers: Headers, response_body: bytes
    ) -> Rendering: ...

    def cache_kind(self, operation: str) -> CacheKind | None:
        """What an operation's answers are to a cache; None for those that are never cached. Looks at no body."""
        ...

    def may_be_deterministic(self, operation: str, body: bytes) -> bool:
        """Whether it is worth while to work out the subject of a generation for its temperature: a look at the bytes.

        May say yes wrongly. A wrong no costs a miss. Runs in the worker for each generation, so it must be quick.
        """
        ...

    def cache_subject(
        self,
        operation: str,
        model: str | None,
        target: str,
        headers: Headers,
        body: bytes,
        normalise: Normalise | None = None,
    ) -> CacheSubject | str:
        """What a request asks for; or why it cannot be cached, in a few words that fit a header (`not JSON`).

        Args:
            target: path and query as recorded (secrets replaced).
            body: as sent, content-coding removed.
        """
        ...

    def reshape(self, operation: str, body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
        """An answer (content-coding removed) of one shape in another, as the chunks to send; None if it cannot be.

        `operation` is the subject's. Strings (signatures, ids) come out as they were.
        """
        ...

    def endings(self, operation: str, headers: Headers, body: bytes) -> Endings:
        """How an answer (content-coding removed) of status 200 ended."""
        ...
