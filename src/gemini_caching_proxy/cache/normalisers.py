"""What is ignored when requests are compared: volatile bits of prompts, by name or by patterns of one's own.

A normaliser changes only what a key is made of, never a request or an answer. Off unless chosen: a request that differs
from a recorded one only in what a normaliser ignores is answered from the record. Patterns are RE2's: linear time,
whatever a prompt holds. Nothing here changes the value it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2
from blake3 import blake3

from gemini_caching_proxy.errors import ConfigError

from .call_ids import renumbered

PLACEHOLDER: Final = "…"
"""Put in place of what an own pattern without a replacement finds."""
ARROW: Final = "=>"
_GROUP = re2.compile(r"\\(\d)")
"""A group in a replacement; nothing else in one has a meaning."""
_TEXTS: Final = frozenset(
    (
        *("contents", "content", "systemInstruction", "requests", "request", "generateContentRequest"),
        *("messages", "prompt", "input", "system_instruction", "instructions"),
    )
)
"""Where texts are, at the top of a request of any dialect."""
_NO_TEXT: Final = frozenset(
    (
        *("role", "name", "id", "type", "mimeType", "mime_type", "data", "thoughtSignature", "signature", "model"),
        *("fileUri", "uri", "image_url", "input_audio", "file", "tool_call_id", "call_id", "toolType", "tools"),
        *("toolConfig", "safetySettings", "generationConfig", "cachedContent", "labels", "serviceTier", "taskType"),
    )
)
"""Keys of messages whose strings are no texts; in what users put in themselves they mean nothing:"""
_USER_DATA: Final = frozenset(("args", "response", "arguments", "result", "output"))

Change = Callable[[bytes], bytes]
"""A text in UTF-8, as RE2 works on it -> the same without what is volatile in it."""


@dataclass(frozen=True, slots=True)
class Normaliser:
    """A named normaliser: patterns with their replacements, or other normalisers."""

    description: str
    """One sentence for people."""
    patterns: tuple[tuple[str, str], ...] = ()
    """RE2 patterns and what takes the place of a find (`\\1` for a group)."""
    parts: tuple[str, ...] = ()
    """Names of the normalisers that it consists of."""
    renumbers: bool = False
    """Whether it numbers the ids of calls."""


NAMED: Final[Mapping[str, Normaliser]] = {
    "iso-times": Normaliser(
        "Dates with a time of day in ISO 8601, such as `2026-03-01T10:20:30.123Z`.",
        ((r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|\s?[+-]\d\d:?\d\d)?", "<time>"),),
    ),
    "dates": Normaliser(
        "Days: in ISO 8601, and in words such as `Sunday, March 1, 2026`.",
        (
            (r"\b\d{4}-\d\d-\d\d\b", "<date>"),
            (
                r"\b(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day,? )?(?:January|February|March|April|May|June|July"
                r"|August|September|October|November|December) \d{1,2}(?:st|nd|rd|th)?,? \d{4}\b",
                "<date>",
            ),
        ),
    ),
    "current-time": Normaliser(
        "The section `# Current Time` that Cline and Roo Code add to each turn.",
        ((r"(?m)^# Current Time[^\n]*\n(?:[^\n#<][^\n]*\n?)+", "# Current Time\n"),),
    ),
    "current-cost": Normaliser(
        "The section `# Current Cost` and other amounts of dollars spent so far that agents state.",
        (
            (r"(?m)^# Current Cost[^\n]*\n\s*\$?[0-9.,]+[^\n]*", "# Current Cost\n<cost>"),
            (r"(?i)(\bcost(?: so far)?:? *)\$[0-9][0-9.,]*", r"\1<cost>"),
        ),
    ),
    "editor-state": Normaliser(
        "Sections on visible files, open tabs, terminals and recently changed files of the editor.",
        (
            (
                r"(?m)^(# (?:[A-Z][A-Za-z ]{0,40} )?(?:Visible Files|Open Tabs)|# Recently Modified Files[^\n]*"
                r"|# (?:Actively Running|Inactive) Terminals[^\n]*)\n(?:(?:[^\n#<]|##)[^\n]*\n?)*",
                "\\1\n",
            ),
        ),
    ),
    "context-usage": Normaliser(
        "The section on how much of the context window is used.",
        ((r"(?m)^# (Context Window Usage|Current Context Size)[^\n]*\n(?:[^\n#<][^\n]*\n?)*", "# \\1\n"),),
    ),
    "temp-folders": Normaliser(
        "Temporary files and folders: under `/tmp`, `/var/folders`, `AppData\\Local\\Temp` and `~/.gemini/tmp`.",
        (
            (r"(/\.gemini/tmp/)[^/\s\"'`<>)\]]+", r"\1<temp>"),
            (r"(/var/folders/)[^/\s\"'`<>)\]]+/[^/\s\"'`<>)\]]+(?:/T/[^/\s\"'`<>)\]]+)?", r"\1<temp>"),
            (r"((?:/private)?(?:/var)?/tmp/)[^/\s\"'`<>)\]:,;]+", r"\1<temp>"),
            (r"(?i)(\\AppData\\Local\\Temp\\)[^\\\s\"'`<>]+", r"\1<temp>"),
        ),
    ),
    "uuids": Normaliser(
        "UUIDs in texts.",
        ((r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),),
    ),
    "pids": Normaliser(
        "Process ids after `PID`, `pid` or `process`.",
        ((r"(?i)\b(pids?|process(?: id)?|background pids|process group pgid)([ :=#(]{1,3})\d+", r"\1\2<pid>"),),
    ),
    "durations": Normaliser(
        "How long something took, such as `in 1.24s`, `took 35 ms` or `Duration: 2 seconds`.",
        (
            (
                r"(?i)\b(in|took|after|duration:?|elapsed:?|time:?) +\d+(?:\.\d+)? ?"
                r"(?:ms|µs|us|s|sec|secs|seconds|minutes)\b",
                r"\1 <duration>",
            ),
        ),
    ),
    "tool-call-ids": Normaliser(
        "Ids of tool calls and of their results: numbered in the order in which they appear.", renumbers=True
    ),
    "cline": Normaliser(
        "What Cline puts into its prompts: time, cost, context usage, state of the editor, ids of calls.",
        parts=("current-time", "current-cost", "context-usage", "editor-state", "tool-call-ids"),
    ),
    "roo": Normaliser(
        "What Roo Code puts into its prompts: time, cost, context usage, state of the editor, ids of calls.",
        parts=("current-time", "current-cost", "context-usage", "editor-state", "tool-call-ids"),
    ),
    "gemini-cli": Normaliser(
        "What Gemini CLI puts into its prompts: the day, its folder for temporary files, process ids, ids of calls.",
        parts=("dates", "temp-folders", "pids", "tool-call-ids"),
    ),
}


class Normalisers:
    """A set of normalisers, called with a canonical request. Equal names, equal sets."""

    def __init__(self, changes: Iterable[Change], *, renumbers: bool, name: str) -> None:
        self.name = name
        """Goes into the cache key; empty for the set that changes nothing."""
        self._changes = tuple(changes)
        self._renumbers = renumbers

    def __repr__(self) -> str:
        return f"<Normalisers {self.name or 'none'}>"

    @classmethod
    def of(cls, names: Sequence[str] = (), patterns: Sequence[str] = ()) -> Normalisers:
        """Normalisers by name, in the order of the list here, then own patterns in the order given.

        Raises:
            ConfigError: an unknown name, or a pattern that RE2 does not take.
        """
        chosen = _resolved(names)
        own = [_own(pattern) for pattern in patterns if pattern.strip()]
        rules = [rule for name in chosen for rule in NAMED[name].patterns]
        name = ",".join(chosen)
        if own:
            digest = blake3(b"".join(b"%d:%s" % (len(text), text) for rule in own for text in map(str.encode, rule)))
            name = ",".join(filter(None, (name, f"own:{digest.hexdigest(8)}")))
        changes = [_change(pattern, replacement) for pattern, replacement in (*rules, *own)]
        return cls(changes, renumbers=any(NAMED[each].renumbers for each in chosen), name=name)

    def __call__(self, value: Any) -> Any:
        if self._changes:
            value = self._texts(value)
        return renumbered(value) if self._renumbers else value

    def _texts(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: self._changed(item) if name in _TEXTS else item for name, item in value.items()}

    def _changed(self, value: Any, *, user_data: bool = False) -> Any:
        if isinstance(value, str):
            return self._changed_text(value)
        if isinstance(value, list):
            return [self._changed(item, user_data=user_data) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: item
            if name in _NO_TEXT and not user_data
            else self._changed(item, user_data=user_data or name in _USER_DATA)
            for name, item in value.items()
        }

    def _changed_text(self, value: str) -> str:
        text = before = value.encode()
        for change in self._changes:
            text = change(text)
        # RE2's `\C` can cut a character in two.
        return value if text is before else text.decode("utf-8", "replace")


def _resolved(names: Sequence[str]) -> list[str]:
    """The normalisers that names stand for, each once, in the order of `NAMED`."""
    wanted: set[str] = set()
    for name in names:
        if name not in NAMED:
            raise ConfigError(
                f"Setting --cache-normalisers: there is no normaliser {name!r}. Known are {', '.join(NAMED)}."
            )
        wanted.update(NAMED[name].parts or (name,))
    return [name for name in NAMED if name in wanted]


def _own(text: str) -> tuple[str, str]:
    """`REGEX` or `REGEX => replacement`."""
    pattern, arrow, replacement = text.rpartition(f" {ARROW} ")
    if not arrow and text.endswith(f" {ARROW}"):
        pattern, replacement = text.removesuffix(f" {ARROW}"), ""
    elif not arrow:
        pattern, replacement = text, PLACEHOLDER
    pattern, replacement = pattern.strip(), replacement.strip()
    try:
        expression = _compiled(pattern)
    except re2.error as error:
        reason = error.args[0]
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise ConfigError(f"Setting --cache-patterns (got {text!r}): RE2 does not take this pattern: {told}") from None
    if any(int(group) > expression.groups for group in _GROUP.findall(replacement)):
        raise ConfigError(f"Setting --cache-patterns (got {text!r}): the pattern has no such group.")
    return pattern, replacement


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


def _change(pattern: str, replacement: str) -> Change:
    expression = _compiled(pattern)
    # Texts and numbers of groups by turns.
    pieces: list[str] = _GROUP.split(replacement)
    texts, groups = [piece.encode() for piece in pieces[::2]], [int(group) for group in pieces[1::2]]

    def replaced(match: Any) -> bytes:
        found = ((match[group] or b"") + text for group, text in zip(groups, texts[1:], strict=True))
        return texts[0] + b"".join(found)

    def change(text: bytes) -> bytes:
        if expression.search(text) is None:
            return text
        changed: bytes = expression.sub(replaced, text)
        return changed

    return change
