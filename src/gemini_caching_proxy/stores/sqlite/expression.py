"""What a user typed, as a full-text expression. No I/O.

Every word typed is quoted, so nothing of it is read as FTS5's query language. A word with punctuation inside,
`snake_case` or `foo.bar`, becomes a phrase of its words.
"""

from __future__ import annotations

from gemini_caching_proxy.stores.phrases import SHORTEST_PREFIX, indexable, is_letter, words_of


def match_expression(typed: str, *, last_is_prefix: bool = False) -> str | None:
    """An FTS5 expression for all words of `typed`; None when it holds no word.

    Args:
        last_is_prefix: the last word may be the start of one.
    """
    words = words_of(typed)
    if not words:
        return None
    quoted = ['"' + indexable(word).replace('"', '""') + '"' for word in words]
    if last_is_prefix and len(words[-1]) >= SHORTEST_PREFIX and is_letter(words[-1][-1]):
        quoted[-1] += " *"
    return " ".join(quoted)
