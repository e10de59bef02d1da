"""How much one step takes on: what is done in a moment, whether it is texts of three words or of thirty thousand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

STEP_S: Final = 0.3
"""How long a step should take at most."""
FIRST: Final = 50
LEAST: Final = 5


class Pace:
    """Learns from each step how many things the next one may have."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = min(FIRST, most)
        """Of the next step."""

    def __repr__(self) -> str:
        return f"<Pace {self.size} of {self.most}>"

    def learn(self, seconds: float) -> None:
        """A step took so long."""
        if seconds < STEP_S / 2:
            self.size = min(2 * self.size, self.most)
        elif seconds > STEP_S:
            self.size = max(self.size // 2, min(LEAST, self.most))

    def portions(self, things: Sequence[T]) -> Iterator[Sequence[T]]:
        """All of them, some at a time; what is done with some before the next are asked for is a step."""
        at = 0
        while at < len(things):
            some = things[at : at + self.size]
            began = monotonic()
            yield some
            self.learn(monotonic() - began)
            at += len(some)
