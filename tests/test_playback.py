"""Chunks are given out when they are due, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.playback import Playback


class Timer:
    def __init__(self, when: float, work: Callable[[], None]) -> None:
        self.when, self.work, self.cancelled = when, work, False

    def cancel(self) -> None:
        self.cancelled = True


class HandClock:
    """What a playback needs of a loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, work: Callable[[], None]) -> Timer:
        self.timers.append(timer := Timer(when, work))
        return timer

    def run_until(self, end: float) -> None:
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= end]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.work()
        self.now = max(self.now, end)


class Given:
    def __init__(self, offsets_us: list[int], speed: float = 1.0) -> None:
        self.clock = HandClock()
        self.came: list[tuple[int, bytes, bool]] = []
        chunks = [b"%d" % number for number in range(len(offsets_us))]
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        self.playback = Playback(loop, chunks, offsets_us, speed, self.take)

    def take(self, chunk: bytes, last: bool) -> None:
        self.came.append((round((self.clock.now - 100) * 1e6), chunk, last))


@pytest.mark.parametrize(("speed", "factor"), [(1.0, 1.0), (4.0, 0.25), (0.5, 2.0)])
def test_in_time(speed: float, factor: float) -> None:
    given = Given([0, 200_000, 200_000, 900_000], speed)
    given.clock.run_until(200)
    assert given.came == [
        (0, b"0", False),
        (200_000 * factor, b"1", False),
        (200_000 * factor, b"2", False),
        (900_000 * factor, b"3", True),
    ]
    assert not given.clock.timers


def test_stopped() -> None:
    given = Given([0, 100_000, 200_000])
    given.clock.run_until(100.1)
    given.playback.stop()
    given.playback.pause(False)
    given.clock.run_until(200)
    assert [chunk for _, chunk, _ in given.came] == [b"0", b"1"]


def test_held_back() -> None:
    given = Given([0, 100_000, 200_000, 900_000])
    given.clock.run_until(100.05)
    given.playback.pause(True)
    given.clock.run_until(100.5)
    assert len(given.came) == 1
    given.playback.pause(False)
    given.clock.run_until(200)
    assert [(at, chunk) for at, chunk, _ in given.came[1:]] == [(500_000, b"1"), (500_000, b"2"), (900_000, b"3")]


@given(
    st.lists(st.integers(0, 50_000), min_size=1, max_size=12).map(sorted),
    st.lists(st.tuples(st.integers(1, 20_000), st.booleans()), max_size=10),
)
def test_however_it_is_held_back(offsets_us: list[int], pauses: list[tuple[int, bool]]) -> None:
    """All comes, once, in order, and never early."""
    given = Given(offsets_us)
    for step, paused in pauses:
        given.clock.run_until(given.clock.now + step / 1e6)
        given.playback.pause(paused)
    given.playback.pause(False)
    given.clock.run_until(200)
    assert [chunk for _, chunk, _ in given.came] == [b"%d" % number for number in range(len(offsets_us))]
    assert all(at >= due - 1 for (at, _, _), due in zip(given.came, offsets_us, strict=True))
    assert [last for *_, last in given.came] == [False] * (len(offsets_us) - 1) + [True]
