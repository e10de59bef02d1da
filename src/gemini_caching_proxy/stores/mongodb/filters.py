"""A query, and words that somebody typed, as conditions. Values are only ever values: words are letters and digits.

Conditions of a query hold alike on exchanges and on texts, which carry what is asked for of their exchange. Words are
looked up in texts; what is typed in one piece but is several words (`foo.bar`, Chinese) is a phrase, whose words the
server finds and whose order `Terms.holds` checks on the text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pymongo import DESCENDING

from gemini_caching_proxy.stores.base import Query
from gemini_caching_proxy.stores.facets import INT64_MAX, bounded
from gemini_caching_proxy.stores.phrases import SHORTEST_PREFIX, is_letter, tokens, words_of

from .connection import Document

_AFTER_ALL = "\U0010ffff"
"""Sorts after all that words are made of."""


def conditions(query: Query, digests: Sequence[bytes] | None) -> Document:
    """All of `query` but `contains`; `digests` are the facets that its facet fields allow, None for all."""
    found: Document = {}
    times = {"$gte": bounded(query.since_ns, INT64_MAX), "$lt": bounded(query.until_ns, INT64_MAX)}
    limits = {name: value for name, value in times.items() if value is not None}
    if limits:
        found["started_ns"] = limits
    if query.conversation is not None:
        found["conversation"] = query.conversation
    if digests is not None:
        found["facet"] = {"$in": list(digests)}
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Which exchanges are asked for, and up to where they are there."""

    query: Query
    digests: Sequence[bytes] | None
    """Facets that the query's facet fields allow, None for all."""
    horizon: int
    indexed: int
    """Up to where texts are in the index of words."""

    @property
    def is_empty(self) -> bool:
        """Whether no exchange at all can pass."""
        return self.digests is not None and not self.digests

    @property
    def is_bounded(self) -> bool:
        """Whether there are limits to times or facets."""
        return self.digests is not None or self.query.since_ns is not None or self.query.until_ns is not None

    @property
    def conditions(self) -> Document:
        """All of the query but `contains`; empty when nothing is left out."""
        return conditions(self.query, self.digests)


@dataclass(frozen=True, slots=True)
class Walk:
    """Which sequence numbers are gone through, and in which direction."""

    lowest: int
    highest: int
    direction: int = DESCENDING

    @property
    def span(self) -> Document:
        return {"$gte": self.lowest, "$lte": self.highest}

    @property
    def is_over(self) -> bool:
        return self.lowest > self.highest

    def until(self, edge: int) -> Walk:
        """As far as this number."""
        return replace(self, **{"lowest" if self.direction == DESCENDING else "highest": edge})

    def beyond(self, edge: int) -> Walk:
        """What comes after this number."""
        is_falling = self.direction == DESCENDING
        return replace(self, highest=edge - 1) if is_falling else replace(self, lowest=edge + 1)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words side by side."""

    words: tuple[str, ...]
    begun: bool
    """Whether the last may be the start of one."""

    def within(self, text: Sequence[str]) -> bool:
        """Whether a text of these words has it."""
        length, first = len(self.words), self.words[0]
        at = -1
        for _ in range(text.count(first)):
            at = text.index(first, at + 1)
            if self._fits(text[at : at + length]):
                return True
        return False

    def _fits(self, piece: Sequence[str]) -> bool:
        if len(piece) < len(self.words):
            return False
        *whole, last = self.words
        return list(piece[:-1]) == whole and (piece[-1].startswith(last) if self.begun else piece[-1] == last)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a text must hold: all of it."""

    words: tuple[str, ...]
    """Distinct, whole."""
    beginning: str | None = None
    """Start of one more."""
    phrases: tuple[Phrase, ...] = ()
    """Of the same words, where they must stand side by side."""

    @classmethod
    def of(cls, typed: str, *, last_is_prefix: bool = False) -> Terms | None:
        """None when nothing that was typed is a word.

        Args:
            last_is_prefix: the last word may be the start of one.
        """
        pieces = words_of(typed)
        split = [tokens(piece) for piece in pieces]
        if not any(split):
            return None
        last = pieces[-1]
        begun = last_is_prefix and len(last) >= SHORTEST_PREFIX and is_letter(last[-1]) and bool(split[-1])
        phrases = [
            Phrase(tuple(piece), begun and number == len(split) - 1)
            for number, piece in enumerate(split)
            if len(piece) > 1
        ]
        beginning = split[-1].pop() if begun else None
        words = dict.fromkeys(word for piece in split for word in piece)
        return cls(tuple(words), beginning, tuple(phrases))

    @property
    def condition(self) -> Document:
        """On a text's document: that it holds all words, wherever they stand."""
        every: list[Document] = [{"words": word} for word in self.words]
        if self.beginning is not None:
            every.append({"words": {"$elemMatch": {"$gte": self.beginning, "$lt": self.beginning + _AFTER_ALL}}})
        return {"$and": every}

    @property
    def span(self) -> tuple[str, str]:
        """What `beginning` stands for: words from the first (with it) to the second (without)."""
        assert self.beginning is not None
        return self.beginning, self.beginning + _AFTER_ALL

    def holds(self, text: str, *, whole: bool) -> bool:
        """Whether the phrases are in a text that holds the words.

        Args:
            whole: False if the text had more that is not kept; a phrase with a word from there is taken for present.
        """
        found = tokens(text)
        known = frozenset(found)
        return all(
            phrase.within(found) or not (whole or known.issuperset(phrase.words[: len(phrase.words) - phrase.begun]))
            for phrase in self.phrases
        )
