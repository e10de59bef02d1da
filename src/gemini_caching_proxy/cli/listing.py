"""Exchanges as one line each, in columns that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from rich.text import Text

from gemini_caching_proxy.exchange import Verdict
from gemini_caching_proxy.stores.base import Summary

from .figures import NONE, clock_text, cost_text, count_text, duration_text, local_time
from .terminal import one_line

ID_DIGITS = 8
GAP = "  "
LEAST_PREVIEW = 14

OPERATION_NAMES = {
    "generate_content": "generate",
    "stream_generate_content": "stream",
    "embed_content": "embed",
    "batch_embed_contents": "embed",
    "count_tokens": "count",
    "list_models": "models",
    "get_model": "model",
    "create_interaction": "interact",
    "openai_chat_completions": "chat",
    "openai_embeddings": "embed",
    "upload_chunk": "upload",
    "upload_file": "upload",
    "delete_file": "delete",
}
"""Short names of the common operations; the others are shown as they are."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    width: int
    least_terminal: int
    """Shown on terminals of at least this many columns."""
    cell: Callable[[Summary, datetime], Text]
    right: bool = False
    most_terminal: int = 100_000


def short_id(identifier: object) -> str:
    """The end of an id: its beginning is the time, which neighbours share."""
    return str(identifier)[-ID_DIGITS:]


def status_cell(summary: Summary) -> Text:
    """The status, or `ERR` where there is none or the answer broke off; coloured by kind."""
    if summary.failure is not None:
        return Text(str(summary.status) if summary.status and summary.status >= 400 else "ERR", "bold red")
    status = summary.status
    if status is None:
        return Text(NONE, "dim")
    style = "green" if status < 300 else "cyan" if status < 400 else "yellow" if status < 500 else "red"
    return Text(str(status), style)


def preview_cell(summary: Summary) -> Text:
    """What was said; for a failure first what went wrong."""
    text = Text()
    if summary.failure is not None:
        text.append(f"{summary.failure.value.replace('_', ' ')} ", "red")
    return text.append(
        one_line(summary.preview) or one_line(f"{summary.method} {summary.target}"), "" if summary.preview else "dim"
    )


def _tokens(summary: Summary) -> Text:
    if summary.input_tokens is None and summary.output_tokens is None:
        return Text(NONE, "dim")
    out = (summary.output_tokens or 0) + (summary.thoughts_tokens or 0)
    return Text(f"{count_text(summary.input_tokens or 0)}→{count_text(out)}")


def _times(summary: Summary) -> Text:
    whole = duration_text(summary.duration_us)
    if summary.ttft_us is None or summary.stream_shape == "unary":
        return Text(whole)
    return Text(f"{duration_text(summary.ttft_us)}/{whole}")


def _cost(summary: Summary) -> Text:
    """What was paid, or that nothing was because the cache answered."""
    if summary.verdict in (Verdict.HIT, Verdict.COLLAPSED):
        return Text(summary.verdict.value, "green")
    return Text(cost_text(summary.price_nanousd))


def _model(summary: Summary) -> Text:
    return Text(one_line(summary.model or summary.model_version or NONE), "" if summary.model else "dim")


def _operation(summary: Summary) -> Text:
    return Text(one_line(OPERATION_NAMES.get(summary.operation, summary.operation)))


DATE_WIDTH = len("11-23 14:03")
TIME = Column("time", len("14:03:22"), 0, lambda one, now: Text(clock_text(one.started_ns, now), "dim"))
COLUMNS = (
    Column("id", ID_DIGITS, 0, lambda one, now: Text(short_id(one.id), "cyan")),
    TIME,
    Column("code", 4, 0, lambda one, now: status_cell(one)),
    Column("model", 20, 0, lambda one, now: _model(one)),
    Column("what", 10, 105, lambda one, now: _operation(one)),
    Column("took", 6, 0, lambda one, now: Text(duration_text(one.duration_us)), right=True, most_terminal=99),
    Column("first/all", 12, 100, lambda one, now: _times(one), right=True),
    Column("tokens", 11, 90, lambda one, now: _tokens(one), right=True),
    Column("cost", 8, 118, lambda one, now: _cost(one), right=True),
)


def spans_days(items: Iterable[Summary], now: datetime) -> bool:
    """Whether any of these did not start today."""
    return any(local_time(one.started_ns).date() != now.astimezone().date() for one in items)


class Listing:
    """Lines of equal columns for one terminal width."""

    def __init__(self, width: int, *, days: bool = False) -> None:
        """`days`: leave room for a date beside the time."""
        self._columns = [
            replace(column, width=DATE_WIDTH) if days and column is TIME else column
            for column in COLUMNS
            if column.least_terminal <= width <= column.most_terminal
        ]
        used = sum(column.width + len(GAP) for column in self._columns)
        self._preview = max(LEAST_PREVIEW, width - used)

    def head(self) -> Text:
        """The line of titles."""
        cells = [(Text(column.title), column) for column in self._columns]
        line = self._line(cells)
        line.append("said")
        line.stylize("bold")
        return line

    def line(self, summary: Summary, now: datetime, *, preview: bool = True) -> Text:
        """One exchange."""
        line = self._line((column.cell(summary, now), column) for column in self._columns)
        if preview:
            said = preview_cell(summary)
            said.truncate(self._preview, overflow="ellipsis")
            line.append_text(said)
        return line

    def _line(self, cells: Iterable[tuple[Text, Column]]) -> Text:
        line = Text(no_wrap=True, overflow="crop", end="")
        for cell, column in cells:
            cell.truncate(column.width, overflow="ellipsis")
            space = " " * (column.width - cell.cell_len)
            line.append(space if column.right else "").append_text(cell)
            line.append(GAP if column.right else space + GAP)
        return line
