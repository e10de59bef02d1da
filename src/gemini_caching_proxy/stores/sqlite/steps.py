"""Much work in short transactions, beside a running writer that never waits longer than a moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import TypeVar

import apsw

from .connection import transaction

LOCK_S = 0.01
"""Seconds of work per transaction; the commit comes on top."""
PAUSE_S = 0.005
"""Seconds between two transactions: who waits for the lock looks again after one millisecond."""
READ_ROWS = 5000
"""Rows per read, so that a reader of ours never holds up a writer that has no WAL."""

_T = TypeVar("_T")


def in_short_steps(
    connection: apsw.Connection,
    items: Sequence[_T],
    action: Callable[[_T], bool],
    first: Callable[[], None] | None = None,
) -> int:
    """Apply `action` to all items in transactions of `LOCK_S`; how many times it was true.

    Args:
        first: called at the start of each transaction.
    """
    done, at = 0, 0
    while at < len(items):
        with transaction(connection):
            if first is not None:
                first()
            until = monotonic() + LOCK_S
            while at < len(items):
                done += action(items[at])
                at += 1
                if monotonic() >= until:
                    break
        sleep(PAUSE_S)
    return done
