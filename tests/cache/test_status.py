"""The field `Cache-Status` is a list of structured fields, whatever is put into it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.cache.status import MOST_DETAIL, cache_status

# RFC 8941 section 3: an item of one Token, with parameters that are flags, Integers, Tokens or Strings.
ITEM = re.compile(
    r"gemini-proxy(; (hit|fwd|collapsed|stored|ttl|key|detail)"
    r'(=(-?[0-9]{1,15}|[a-z][a-z-]*|"([ !#-\[\]-~]|\\"|\\\\)*"))?)*'
)
KEY = bytes(range(16))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (cache_status(), b"gemini-proxy"),
        (cache_status(hit=True, ttl_s=9.9), b"gemini-proxy; hit; ttl=9"),
        (cache_status(key=KEY), b'gemini-proxy; key="k1:000102030405060708090a0b0c0d0e0f"'),
        (cache_status(fwd="stale", stored=True, ttl_s=-3), b"gemini-proxy; fwd=stale; stored; ttl=-3"),
        (cache_status(fwd="miss", collapsed=True), b"gemini-proxy; fwd=miss; collapsed"),
        (cache_status(detail='a "b" \\ \u00fc\r\nX: y'), b'gemini-proxy; detail="a \\"b\\" \\\\ ???X: y"'),
    ],
)  # fmt: skip
def test_values(value: bytes, wanted: bytes) -> None:
    assert value == wanted


@given(
    st.booleans(),
    st.sampled_from(["", "miss", "stale", "bypass", "request"]),
    st.booleans(),
    st.none() | st.floats(-1e9, 1e9),
    st.none() | st.binary(min_size=16, max_size=16),
    st.text(max_size=MOST_DETAIL + 50),
)
def test_it_is_a_structured_field(
    hit: bool, fwd: str, stored: bool, ttl_s: float | None, key: bytes | None, detail: str
) -> None:
    value = cache_status(hit=hit, fwd=fwd, stored=stored, ttl_s=ttl_s, key=key, detail=detail).decode("ascii")
    assert ITEM.fullmatch(value), value
    assert len(value) < 2 * MOST_DETAIL + 150
