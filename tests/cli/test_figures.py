from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.cli.figures import (
    bytes_text,
    clock_text,
    cost_text,
    count_text,
    duration_text,
    iso_text,
    read_age,
    read_moment,
)

NOW = datetime(2026, 11, 24, 14, 3, 22, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1_000, "1.0k"),
        (1_234, "1.2k"),
        (123_456, "123k"),
        (1_500_000, "1.5M"),
        (2_000_000_000, "2.0G"),
    ],
)
def test_counts(value: int | None, text: str) -> None:
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (1 << 40, "1.0 TiB")],
)
def test_bytes(value: int | None, text: str) -> None:
    assert bytes_text(value) == text


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (None, "–"),
        (310, "0.3ms"),
        (9_999, "10.0ms"),
        (412_000, "412ms"),
        (2_400_000, "2.4s"),
        (61_000_000, "61s"),
        (185_000_000, "3m05s"),
        (7_200_000_000, "2h00m"),
    ],
)
def test_durations(microseconds: int | None, text: str) -> None:
    assert duration_text(microseconds) == text


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (None, "–"),
        (0, "$0"),
        (1, "<$0.0001"),
        (216_100, "$0.0002"),
        (12_345_000, "$0.0123"),
        (1_234_000_000, "$1.23"),
        (12_345_678_000_000_000, "$12,345,678"),
    ],
)
def test_costs_never_show_the_unknown_as_free(nanousd: int | None, text: str) -> None:
    assert cost_text(nanousd) == text


@given(st.integers(0, 10**16))
def test_figures_fit_their_columns(value: int) -> None:
    assert len(duration_text(value)) <= 12
    assert len(count_text(value)) <= 10


def test_clock_shows_the_date_only_of_other_days() -> None:
    now = NOW.astimezone()
    today = int(now.timestamp()) * 10**9
    assert clock_text(today, now) == now.strftime("%H:%M:%S")
    assert clock_text(today - 3 * 86400 * 10**9, now) == (now - timedelta(days=3)).strftime("%m-%d %H:%M")
    assert clock_text(today - 700 * 86400 * 10**9, now) == (now - timedelta(days=700)).strftime("%Y-%m-%d")


def test_iso_is_utc_to_the_microsecond() -> None:
    assert iso_text(1_769_864_645_250_001_999) == "2026-01-31T13:04:05.250001Z"


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("1.5h", timedelta(minutes=90)),
        ("4w", timedelta(weeks=4)),
        (" 10S ", timedelta(seconds=10)),
    ],
)
def test_ages(text: str, age: timedelta) -> None:
    assert read_age(text) == age


@pytest.mark.parametrize("text", ["", "7", "d", "7y", "-7d", "seven days", "9" * 400 + "d"])
def test_what_is_no_age_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        read_age(text)


def test_moments_are_ages_or_dates() -> None:
    now_ns = int(NOW.timestamp()) * 10**9 + 250_000_000
    assert read_moment("30m", NOW) == now_ns - 1800 * 10**9
    assert read_moment("2026-01-31T13:04:05Z", NOW) == 1_769_864_645 * 10**9
    assert read_moment("2026-01-31T13:04:05+02:00", NOW) == 1_769_857_445 * 10**9
    local = datetime(2026, 1, 31).astimezone()
    assert read_moment("2026-01-31", NOW) == int(local.timestamp()) * 10**9


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "99999999999d", "0001-01-01"])
def test_what_is_no_moment_is_refused_in_words_or_read(text: str) -> None:
    try:
        read_moment(text, NOW)
    except ValueError as error:
        assert "30m, 2h, 7d" in str(error)  # noqa: PT017 - either is fine, a traceback is not


@given(st.text(max_size=30))
def test_reading_a_moment_never_fails_in_another_way(text: str) -> None:
    try:
        read_moment(text, NOW)
    except ValueError as error:
        assert str(error)  # noqa: PT017
