"""When the bytes of an exchange came, as a chart of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from gemini_caching_proxy.exchange import Chunk, Exchange

from .figures import bytes_text, duration_text

MOST_ROWS = 40
LABEL_WIDTH = 15
FIGURES_WIDTH = 26


@dataclass(frozen=True, slots=True)
class Row:
    """One or more chunks that came close together."""

    offset_us: int
    chunks: int
    size: int


def rows_of(chunks: Sequence[Chunk], most: int = MOST_ROWS) -> list[Row]:
    """The chunks, neighbours put together so that there are at most `most` rows."""
    if not chunks:
        return []
    per_row = -(-len(chunks) // most)
    groups = [chunks[at : at + per_row] for at in range(0, len(chunks), per_row)]
    return [Row(group[0].offset_us, len(group), sum(chunk.size for chunk in group)) for group in groups]


def timeline(exchange: Exchange, width: int) -> Text:
    """The moments of an exchange, then its chunks, each at its place between start and end."""
    chunks = exchange.response.chunks if exchange.response else ()
    timing = exchange.timing
    end = max([timing.last_byte_us or 0, *(chunk.offset_us for chunk in chunks), 1])
    room = max(10, width - LABEL_WIDTH - FIGURES_WIDTH)
    text = Text()
    moments = (
        ("request read", timing.request_done_us),
        ("connected", timing.connected_us),
        ("first byte", timing.first_byte_us),
        ("first content", timing.first_content_us),
        ("end", timing.last_byte_us),
    )
    for name, at in moments:
        if at is not None:
            text.append(f"{name:<{LABEL_WIDTH}}", "dim").append(_mark(at, end, room, "│"), "cyan")
            text.append(f" {duration_text(at):>8}\n")
    for row in rows_of(chunks):
        label = "chunk" if row.chunks == 1 else f"{row.chunks} chunks"
        text.append(f"{label:<{LABEL_WIDTH}}", "dim").append(_mark(row.offset_us, end, room, "█"), "green")
        text.append(f" {duration_text(row.offset_us):>8} {bytes_text(row.size):>10}\n")
    text.append(_pauses(chunks))
    return text


def _mark(at: int, end: int, room: int, mark: str) -> str:
    place = min(room - 1, at * room // end)
    return " " * place + mark + " " * (room - place - 1)


def _pauses(chunks: Sequence[Chunk]) -> str:
    gaps = [after.offset_us - before.offset_us for before, after in pairwise(chunks)]
    if not gaps:
        return f"{len(chunks)} chunk{'' if len(chunks) == 1 else 's'}"
    return f"{len(chunks)} chunks, longest pause {duration_text(max(gaps))}"
