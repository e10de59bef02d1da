"""Tables that leave out what does not fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gemini_caching_proxy.stores.base import StatsRow


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A right-aligned column of figures."""

    title: str
    width: int
    cell: Callable[[StatsRow], str]
    style: str = ""
    least_terminal: int = 0
    """Shown on terminals of at least this many columns."""


def fitting_table(
    title: str,
    rows: Sequence[StatsRow],
    columns: Sequence[TableColumn],
    key: Callable[[StatsRow], str],
    width: int,
) -> Table:
    """A table of `rows`; the first column holds `key` and takes the room that is left."""
    shown = [column for column in columns if column.least_terminal <= width]
    room = width - sum(column.width + 1 for column in shown) - 1
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=max(8, room), style="cyan")
    for column in shown:
        table.add_column(
            column.title,
            justify="right",
            no_wrap=True,
            min_width=min(column.width, len(column.title)),
            style=column.style,
        )
    for row in rows:
        table.add_row(Text(key(row)), *(Text(column.cell(row)) for column in shown))
    return table
