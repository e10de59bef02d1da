from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from factories import exchange, response
from gemini_caching_proxy.cli.timeline import MOST_ROWS, rows_of, timeline
from gemini_caching_proxy.exchange import Chunk, Failure, FailureKind, Timing

CHUNKS = st.lists(st.builds(Chunk, st.integers(0, 10**10), st.integers(0, 10**7)), max_size=300)


@given(CHUNKS)
def test_rows_hold_every_chunk_and_are_few(chunks: list[Chunk]) -> None:
    rows = rows_of(chunks)
    assert len(rows) <= MOST_ROWS
    assert sum(row.chunks for row in rows) == len(chunks)
    assert sum(row.size for row in rows) == sum(chunk.size for chunk in chunks)


@given(CHUNKS, st.integers(60, 200))
def test_the_chart_fits(chunks: list[Chunk], width: int) -> None:
    arrived = replace(response(), chunks=tuple(chunks))
    chart = timeline(exchange(outcome=arrived), width)
    assert all(len(line) <= width for line in chart.plain.splitlines())


def test_marks_stand_in_the_order_of_time() -> None:
    one = exchange(
        outcome=response((b"a", b"b", b"c"), first_us=400_000), timing=Timing(1_000, 35_000, 400_000, 400_100, 460_000)
    )
    lines = timeline(one, 80).plain.splitlines()
    places = [line.index("█") for line in lines if "█" in line]
    assert len(places) == 3
    assert places == sorted(places)
    assert lines[-1] == "3 chunks, longest pause 20ms"


def test_nothing_came() -> None:
    one = exchange(
        outcome=Failure(FailureKind.CONNECT_FAILED, "refused", 502), timing=Timing(1_000, None, None, None, 2_000)
    )
    assert timeline(one, 80).plain.splitlines()[-1] == "0 chunks"
