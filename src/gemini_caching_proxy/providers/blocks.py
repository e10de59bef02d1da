"""Blocks of a message put together and put into words; what the dialects share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import Block
from .fields import as_json

MAX_TEXT_CHARS = 1024 * 1024
"""Of an answer's text."""


def media(mime_type: str, base64_chars: int = 0, place: str = "") -> Block:
    """A medium as one line: `image/png, 12 KB`, or where it lies."""
    kind = mime_type or "unknown media type"
    if place:
        return Block("media", f"{kind}, {place}", mime_type)
    return Block("media", f"{kind}, {_size(base64_chars * 3 // 4)}", mime_type)


def data_url(url: str) -> Block:
    """A medium by its URL; of a `data:` URL only type and size are told."""
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        return media(head[5:].partition(";")[0], len(data))
    return media("", place=url)


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} KB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MB"


def arguments(value: Any) -> str:
    """Arguments of a call as JSON; a string is taken to be JSON already."""
    return value if isinstance(value, str) else as_json(value if value is not None else {})


class Message:
    """Blocks of one message as they come; text that continues text becomes one block."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Block, list[str]]] = []

    def add(self, block: Block) -> None:
        if self._blocks and block.kind in ("text", "thought"):
            last, texts = self._blocks[-1]
            if last.kind == block.kind:
                texts.append(block.text)
                return
        self._blocks.append((block, [block.text]))

    def extend_call(self, text: str, *, name: str = "", call_id: str = "") -> None:
        """More of the arguments of the call that came last."""
        if self._blocks and self._blocks[-1][0].kind == "tool_call" and not name:
            self._blocks[-1][1].append(text)
        else:
            self._blocks.append((Block("tool_call", "", name, call_id), [text]))

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(
            Block(block.kind, "".join(texts), block.name, block.call_id)
            for block, texts in self._blocks
            if any(texts) or block.kind not in ("text", "thought")
        )


def answer_text(messages: Sequence[Sequence[Block]]) -> str:
    """What was said, without thoughts; calls as `name(arguments)`, each on a line."""
    lines = []
    for blocks in messages:
        for block in blocks:
            if block.kind in ("text", "code"):
                lines.append(block.text)
            elif block.kind == "tool_call":
                lines.append(f"{block.name}({block.text})")
    return "\n".join(lines)[:MAX_TEXT_CHARS]


def thought_text(messages: Sequence[Sequence[Block]]) -> str:
    """Thoughts and results of tools that ran at the provider: for search, not for previews."""
    kinds = ("thought", "tool_result")
    texts = [block.text for blocks in messages for block in blocks if block.kind in kinds]
    return "\n".join(texts)[:MAX_TEXT_CHARS]
