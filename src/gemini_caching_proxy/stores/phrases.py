"""The words of a text and of what a user typed; and the text around a match. No I/O.

SQLite's unicode61 tokenizer takes a run of Chinese or
Japanese, which write no spaces, for one word; so texts are indexed, and words looked up, with a space around each such
character: any piece of such a text is then found as a phrase.
"""

from __future__ import annotations

import re
import unicodedata

import re2

_SPACELESS = re.compile("([\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u9fff"
    "\ua000-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff])")  # fmt: skip
MATCH_START, MATCH_END = "\x02", "\x03"
SNIPPET_BEFORE, SNIPPET_AFTER = 60, 120
"""Characters around a match."""
SHORTEST_PREFIX = 2
"""A single letter is looked up as a word only: the words that start with it are most of the index."""
LONGEST_WORD = 200
"""Characters; of a longer word this much is looked up."""
_TOKEN = re.compile("(?:[^\\W_]|[\ue000-\uf8ff])+")
_ASCII_WORDS = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 0x20 for code in range(0x80)).ljust(0x100)
"""For `bytes.translate`: letters and digits in lower case, all else a space."""
_FOLDING_LIMIT = 200_000
"""How far into a text a match is looked for without its accents, which is slow."""


def indexable(text: str) -> str:
    """`text` as it is put into the index."""
    return text if text.isascii() else _SPACELESS.sub(r" \1 ", text)


def tokens(text: str) -> list[str]:
    """The words of a text in order, without case and accents: what a store looks up that keeps words itself."""
    return [word[:LONGEST_WORD] for word in _words(text)]


def index_words(text: str) -> list[str]:
    """The distinct words of a text, as `tokens` has them."""
    words = dict.fromkeys(_words(text))
    if max(map(len, words), default=0) > LONGEST_WORD:
        words = dict.fromkeys(word[:LONGEST_WORD] for word in words)
    return list(words)


def _words(text: str) -> list[str]:
    if text.isascii():
        return text.encode().translate(_ASCII_WORDS).decode().split()
    return _TOKEN.findall(_fold(indexable(text)))


def words_of(typed: str) -> list[str]:
    readable = typed.replace("\0", " ").encode("utf-8", "replace").decode()
    return [word for word in readable.split() if any(map(is_letter, word))]


def is_letter(character: str) -> bool:
    """Whether unicode61 takes it for a part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co"


def snippet(text: str, typed: str) -> str:
    """Text around the first match of a word of `typed`, the match marked; the text's beginning if none is found."""
    for word in words_of(typed):
        span = _find(text, word)
        if span is not None:
            start, end = span
            before, after = max(0, start - SNIPPET_BEFORE), end + SNIPPET_AFTER
            lead = "…" if before > 0 else ""
            trail = "…" if after < len(text) else ""
            return f"{lead}{text[before:start]}{MATCH_START}{text[start:end]}{MATCH_END}{text[end:after]}{trail}"
    return text[: SNIPPET_BEFORE + SNIPPET_AFTER] + ("…" if len(text) > SNIPPET_BEFORE + SNIPPET_AFTER else "")


def _find(text: str, word: str) -> tuple[int, int] | None:
    fragments = [re2.escape(fragment) for fragment in _fragments(word)]
    if not fragments:
        return None
    match = re2.search(r"(?i)(?:^|[^\pL\pN])(" + r"[^\pL\pN]*".join(fragments) + ")", text)
    if match is None and _SPACELESS.search(word):
        match = re2.search("(?i)(" + "".join(fragments) + ")", text)
    if match is not None:
        start, end = match.span(1)
        return int(start), int(end)
    return _find_folded(text[:_FOLDING_LIMIT], _fold("".join(_fragments(word))))


def _fragments(word: str) -> list[str]:
    return "".join(character if is_letter(character) else " " for character in word).split()


def _find_folded(text: str, word: str) -> tuple[int, int] | None:
    for match in re.finditer(r"\w+", text):
        if _fold(match[0]).startswith(word):
            return match.span()
    return None


def _fold(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text)
    return "".join(character for character in plain if not unicodedata.combining(character)).casefold()
