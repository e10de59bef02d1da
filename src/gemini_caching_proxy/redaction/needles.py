"""One look at a piece of data for everything that may need replacing.

All literals of the documented formats, and the starts of all encodings of an exchange's own credentials, are searched
in one pass (the `aho-corasick` crate; its SIMD search needs at most about 60 patterns and leftmost matching). Own
credentials are looked for raw, percent-encoded, JSON-escaped, in hex, and in base64 at any of the three alignments.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote_from_bytes

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from .formats import DENSE, LITERALS, FormatFinder, Found, Search

HEAD_BYTES: Final = 16
SHORTEST_SECRET: Final = 8
"""Bytes; a shorter credential is a word that a body may hold by chance."""
MOST_PATTERNS: Final = 60
MANY_PATTERNS: Final = 34
"""With more than 32 patterns the search is several times as fast for most keys, so there are never fewer."""

_HTML_SAFE = b"=&<>'+/"


def encodings(secret: bytes) -> tuple[bytes, ...]:
    """Every form in which a credential is looked for, longest first."""
    forms = {secret, quote_from_bytes(secret, safe="").encode(), *_json_forms(secret), *_base64_forms(secret)}
    forms.add(_lower_percent(quote_from_bytes(secret, safe="").encode()))
    forms.update((secret.hex().encode(), secret.hex().upper().encode()))
    return tuple(sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=lambda form: (-len(form), form)))


def _lower_percent(form: bytes) -> bytes:
    head, *tail = form.split(b"%")
    return b"%".join([head, *(piece[:2].lower() + piece[2:] for piece in tail)])


def _json_forms(secret: bytes) -> Iterable[bytes]:
    plain = json.dumps(secret.decode("latin-1"))[1:-1].encode()
    yield plain
    yield plain.replace(b"/", b"\\/")
    for style in ("\\u%04x", "\\u%04X"):
        everything = b"".join((style % byte).encode() for byte in secret)
        yield everything
        yield b"".join((style % byte).encode() if byte in _HTML_SAFE else bytes((byte,)) for byte in secret)


def _base64_forms(secret: bytes) -> Iterable[bytes]:
    """What base64 of any text around the secret must hold, whichever byte of three it starts at."""
    for shift in range(3):
        sure_from = (0, 2, 3)[shift]
        unsure_at_end = (0, 3, 2)[(shift + len(secret)) % 3]
        coded = base64.b64encode(bytes(shift) + secret)
        standard = coded[sure_from : len(coded) - unsure_at_end]
        yield standard
        yield standard.replace(b"/", b"\\/")
        yield standard.translate(bytes.maketrans(b"+/", b"-_"))


class Needles:
    """What to look for in the bodies of exchanges with the same credentials. Immutable, shared."""

    def __init__(
        self, secrets: Iterable[bytes], fingerprint: Callable[[bytes], bytes], finder: FormatFinder | None
    ) -> None:
        """`finder`: None looks for the own credentials only."""
        self._fingerprint = fingerprint
        self._finder = finder
        self._forms = [
            (form, fingerprint(secret))
            for secret in dict.fromkeys(secrets)
            if len(secret) >= SHORTEST_SECRET
            for form in encodings(secret)
        ]
        self._forms.sort(key=lambda pair: -len(pair[0]))
        heads = dict.fromkeys(form[:HEAD_BYTES] for form, _ in self._forms)
        patterns = [*heads, *(literal for literal in LITERALS if literal not in heads)]
        # Repeated ones change nothing: of equal patterns the first is the one that is found.
        patterns += (patterns * MANY_PATTERNS)[: max(0, MANY_PATTERNS - len(patterns))]
        self._head_count = len(heads)
        self._searches = [
            BytesAhoCorasick(patterns[at : at + MOST_PATTERNS], matchkind=MatchKind.LeftmostFirst)
            for at in range(0, len(patterns), MOST_PATTERNS)
        ]
        self._literals = BytesAhoCorasick(LITERALS, matchkind=MatchKind.LeftmostFirst)
        self._starts = frozenset(pattern[:length] for pattern in patterns for length in range(1, len(pattern)))
        self._start_length = max(map(len, patterns)) - 1
        self.last_bytes = frozenset(start[-1] for start in self._starts)
        """Bytes with which something may begin at the end of data."""
        first = self._searches[0].find_matches_as_indexes
        self.search: Search = first if len(self._searches) == 1 else self._search_all
        """Where something may stand; most often nowhere."""

    def _search_all(self, data: bytes) -> list[tuple[int, int, int]]:
        hits: list[tuple[int, int, int]] = []
        for number, search in enumerate(self._searches):
            first = number * MOST_PATTERNS
            hits += [(first + which, start, end) for which, start, end in search.find_matches_as_indexes(data)]
        return hits

    def find(
        self, data: bytes, hits: list[tuple[int, int, int]], before: bytes, *, final: bool, cut: bool = False
    ) -> tuple[list[tuple[Found, bytes]], int]:
        """What to replace and by what, in order, and from where to wait for more (else the length)."""
        own = any(which < self._head_count for which, _, _ in hits)
        found = self._own(data) if own else []
        wait = len(data)
        if not final:
            wait = self._begun(data)
        elif cut:
            found += self._cut_off(data)
        if self._finder is not None and hits:
            places = self._places(self._finder, data, hits, own)
            shaped, undecided = self._finder.find(data, places, before, final=final, cut=cut)
            found += [(each, self._fingerprint(data[each.start : each.end])) for each in shaped]
            wait = min(wait, undecided)
        return _disjoint(found, wait)

    def _places(
        self, finder: FormatFinder, data: bytes, hits: list[tuple[int, int, int]], own: bool
    ) -> list[tuple[int, bytes]]:
        """Literals and where they stand, in order."""
        if len(hits) > DENSE:
            return finder.dense_places(data, self._literals.find_matches_as_indexes)
        if own:  # one of our heads may cover a literal: ask for the literals alone
            hits = self._literals.find_matches_as_indexes(data)
        return sorted((start, data[start:end]) for _, start, end in hits)

    def _own(self, data: bytes) -> list[tuple[Found, bytes]]:
        found = []
        for form, fingerprint in self._forms:
            at = data.find(form)
            while at >= 0:
                found.append((Found(at, at + len(form)), fingerprint))
                at = data.find(form, at + len(form))
        return found

    def _begun(self, data: bytes) -> int:
        """Where the longest thing begins that the end of `data` breaks off; its length for none."""
        size = len(data)
        tail = data[-self._start_length :]
        begun = next((size - length for length in range(len(tail), 0, -1) if tail[-length:] in self._starts), size)
        for form, _ in self._forms:
            begun = min(begun, _begun_form(form, data))
        return begun

    def _cut_off(self, data: bytes) -> list[tuple[Found, bytes]]:
        """Own credentials of which the end of `data` holds a good part."""
        found = []
        for form, fingerprint in self._forms:
            at = _begun_form(form, data)
            if len(data) - at >= max(SHORTEST_SECRET, len(form) // 4):
                found.append((Found(at, len(data)), fingerprint))
        return found


def _begun_form(form: bytes, data: bytes) -> int:
    """Where a form begins that the end of `data` cuts off; the length of `data` for nowhere."""
    size = len(data)
    at = data.find(form[:1], max(0, size - len(form) + 1))
    while at >= 0:
        if form.startswith(data[at:]):
            return at
        at = data.find(form[:1], at + 1)
    return size


def _disjoint(found: list[tuple[Found, bytes]], wait: int) -> tuple[list[tuple[Found, bytes]], int]:
    """In order, the earlier and longer of overlapping ones kept, none beyond where waiting starts."""
    found.sort(key=lambda pair: (pair[0].start, -pair[0].end))
    kept: list[tuple[Found, bytes]] = []
    reached = 0
    for each in found:
        if each[0].start >= reached and each[0].start < wait:
            kept.append(each)
            reached = each[0].end
    return kept, max(wait, reached)
