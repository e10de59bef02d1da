from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gemini_caching_proxy.cli.listing import Listing, preview_cell, spans_days, status_cell
from gemini_caching_proxy.cli.manual import SUMMARY
from gemini_caching_proxy.exchange import FailureKind

NOW = datetime(2026, 1, 31, 13, 5, tzinfo=UTC)


@given(
    st.integers(80, 200),
    st.text(max_size=300),
    st.text(max_size=60),
    st.sampled_from([None, *FailureKind]),
    st.integers(0, 10**12),
    st.booleans(),
)
def test_a_line_never_passes_the_edge(
    width: int, preview: str, model: str, failure: FailureKind | None, tokens: int, days: bool
) -> None:
    summary = replace(SUMMARY, preview=preview, model=model, operation=model, failure=failure)
    summary = replace(summary, input_tokens=tokens, price_nanousd=tokens, duration_us=tokens)
    line = Listing(width, days=days).line(summary, NOW).plain
    assert "\n" not in line
    assert cell_len(line) <= width


def test_columns_stand_under_their_titles() -> None:
    listing = Listing(150)
    head, line = listing.head().plain, listing.line(SUMMARY, NOW).plain
    assert head.index("model") == line.index("gemini-3.8-flash")
    assert head.index("said") == line.index("Rain on the tin roof")
    assert head.index("tokens") + len("tokens") == line.index("12→85") + len("12→85")


@pytest.mark.parametrize(
    ("status", "failure", "text"),
    [
        (200, None, "200"),
        (429, None, "429"),
        (None, None, "–"),
        (200, FailureKind.CLIENT_GONE, "ERR"),
        (None, FailureKind.DNS_ERROR, "ERR"),
        (502, FailureKind.CONNECT_FAILED, "502"),
    ],
)
def test_a_broken_answer_does_not_look_like_a_good_one(
    status: int | None, failure: FailureKind | None, text: str
) -> None:
    assert status_cell(replace(SUMMARY, status=status, failure=failure)).plain == text


def test_without_words_the_request_is_shown() -> None:
    assert preview_cell(replace(SUMMARY, preview="")).plain.startswith("POST /v1beta/models/")


def test_dates_get_room_only_when_needed() -> None:
    assert not spans_days([SUMMARY], NOW)
    assert spans_days([SUMMARY, replace(SUMMARY, started_ns=SUMMARY.started_ns - 5 * 86400 * 10**9)], NOW)
