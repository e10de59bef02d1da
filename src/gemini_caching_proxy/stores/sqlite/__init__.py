"""The embedded store: one SQLite file, one writer, readers beside it that block nobody.

Facts about the layout, so that the modules make sense:

- A part and an exchange draw their numbers from one counter. An exchange takes its number (`sequence`) first and the
  parts it brings in follow, so a number tells the age of a text and which exchange it came with.
- `exchanges` holds only what lists and sums need; `facets` the low-variety columns, once per combination; `details`
  what a single exchange shows; `uses` which parts it needs; `parts` the parts; `words` the full-text index, without
  texts.
- `rollups` holds sums per UTC hour and day and facet. They outlive the exchanges that prune deletes.
- `entries` says under which cache keys the answers of exchanges can be served again; `entry_sums` is kept by triggers.
"""

from .connection import sqlite_version
from .store import SQLiteStore

__all__ = ["SQLiteStore", "sqlite_version"]
