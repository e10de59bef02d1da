"""The path of a request, as clients join it from base URL and method -> the path that the API knows.

Clients put the version twice (SDK default after a base URL that has one), once or not at all, double slashes and
collection names, and sit behind a path prefix. What is recognised is put right; what is not stays byte for byte.
Bytes only: nothing is decoded here, and the query is not seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_VERSION = b"v1beta"
COLLECTIONS = frozenset(
    (
        *(
            b"models",
            b"tunedModels",
            b"cachedContents",
            b"files",
            b"generatedFiles",
            b"batches",
            b"operations",
            b"corpora",
        ),
        *(
            b"fileSearchStores",
            b"ragStores",
            b"auth_tokens",
            b"interactions",
            b"agents",
            b"environments",
            b"credentials",
        ),
        *(b"triggers", b"voices", b"webhooks", b"decisions", b"tuningJobs"),
    )
)
_VERTEX = frozenset((b"projects", b"publishers"))
_CARRIERS = frozenset((b"upload", b"download"))
_OPENAI_HEADS = frozenset(
    (
        b"chat",
        b"completions",
        b"embeddings",
        b"models",
        b"images",
        b"batches",
        b"files",
        b"responses",
        b"videos",
        b"audio",
    )
)
_VERSION = re.compile(rb"v\d+(?:(?:alpha|beta)\d*|main)?")
_MODEL_VERB = re.compile(rb"[^:]+(?::|%3[Aa])[a-zA-Z]+")
_DOTS = re.compile(rb"(?:\.|%2[eE]){1,2}")


@dataclass(frozen=True, slots=True)
class ApiPath:
    """A path of the API, put right."""

    segments: tuple[bytes, ...]
    """Of the path to ask the upstream for, from its version (or `upload`, `ws`, …) on."""
    prefix: bytes = b""
    """What the client has in front of it; empty or `/team-a`."""

    @property
    def path(self) -> bytes:
        return b"/" + b"/".join(self.segments)


def recognise(path: bytes) -> ApiPath | None:
    """The API's path in a client's; None if none is recognised."""
    segments = [segment for segment in path.split(b"/") if segment]
    if any(_DOTS.fullmatch(segment) for segment in segments):
        return None
    for start in range(len(segments)):
        settled = _settle(segments, start)
        if settled is not None:
            prefix = b"".join([b"/" + segment for segment in segments[:start]])
            return ApiPath(tuple(settled), prefix)
    return None


def _settle(segments: list[bytes], start: int) -> list[bytes] | None:
    """The API's path if it begins at `start`: runs of versions reduced to one, missing ones put in."""
    version, position = _versions(segments, start)
    if position == len(segments):
        return None
    head, rest = segments[position], segments[position:]
    if head in _CARRIERS:
        inner, after = _versions(segments, position + 1)
        if after < len(segments) and _collection(segments[after]):
            return [head, inner or version or DEFAULT_VERSION, *segments[after:]]
        return None
    if head == b"ws":
        return rest if len(rest) > 1 and rest[1].startswith(b"google.") else None
    if head == b"openai":
        return _settle_openai(segments, start, version, position)
    if version is None:
        return _settle_bare(segments, start)
    if _collection(head):
        return [version, *_without_repeats(rest)]
    return [version, *rest] if head in _VERTEX else None


def _versions(segments: list[bytes], position: int) -> tuple[bytes | None, int]:
    """The last of the versions that follow one another from `position` on, and where they end."""
    version = None
    while position < len(segments) and _VERSION.fullmatch(segments[position]):
        version = segments[position]
        position += 1
    return version, position


def _collection(segment: bytes) -> bool:
    return segment.partition(b":")[0] in COLLECTIONS


def _settle_openai(segments: list[bytes], start: int, version: bytes | None, position: int) -> list[bytes] | None:
    """`…/openai/…`; a native call under such a base URL is a native call."""
    inner, after = _versions(segments, position + 1)
    rest = segments[after:]
    if len(rest) >= 2 and rest[0] in (b"models", b"tunedModels") and _MODEL_VERB.fullmatch(rest[-1]):
        return [inner or version or DEFAULT_VERSION, *_without_repeats(rest)]
    known = bool(rest) and rest[0] in _OPENAI_HEADS
    if version is None and (not known or start > 0):
        return None
    # Google serves this dialect under v1beta; an SDK's own default before or after it is not meant for it.
    if version is not None and DEFAULT_VERSION in segments[start:position]:
        version = DEFAULT_VERSION
    return [version or DEFAULT_VERSION, b"openai", *rest]


def _settle_bare(segments: list[bytes], start: int) -> list[bytes] | None:
    """Without a version: known collections at the root, behind a prefix only calls of a model."""
    head, rest = segments[start], segments[start:]
    if head.startswith(b"v1internal:"):
        return rest
    called = head in (b"models", b"tunedModels") and len(rest) > 1 and _MODEL_VERB.fullmatch(rest[-1]) is not None
    before = segments[:start]
    if called and not any(_VERSION.fullmatch(segment) or segment in _VERTEX for segment in before):
        return [DEFAULT_VERSION, *_without_repeats(rest)]
    if start == 0 and _collection(head):
        return [DEFAULT_VERSION, *_without_repeats(rest)]
    return None


def _without_repeats(rest: list[bytes]) -> list[bytes]:
    """`models/models/x` and `models/x/models/x` mean the last: a base URL or a name already had it."""
    if rest[0] == b"models" and b"models" in rest[1:-1]:
        return rest[len(rest) - 1 - rest[::-1].index(b"models") :]
    return rest
