"""What a request says to the cache, as its fields came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.cache.directives import PLAIN, Directives, forbids_storing, read_directives
from gemini_caching_proxy.errors import MalformedRequest


def control(*values: bytes) -> Directives:
    return read_directives((b"Cache-Control", value) for value in values)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((), PLAIN),
        ((b"",), PLAIN),
        ((b"no-transform, max-stale=5, made-up",), PLAIN),
        ((b"no-cache",), Directives(no_cache=True)),
        ((b" No-Cache ,NO-STORE",), Directives(no_cache=True, no_store=True)),
        ((b"no-cache", b"only-if-cached"), Directives(no_cache=True, only_if_cached=True)),
        ((b"max-age=0",), Directives(max_age_s=0)),
        ((b'max-age="60"',), Directives(max_age_s=60)),
        ((b"max-age=99999999999999",), Directives(max_age_s=2**31)),
        # What cannot be read is taken for the most careful wish.
        ((b"max-age",), Directives(max_age_s=0)),
        ((b"max-age=-5",), Directives(max_age_s=0)),
        ((b"max-age=1.5",), Directives(max_age_s=0)),
        ((b"max-age=\xb2",), Directives(max_age_s=0)),
        ((b"max-age=5, max-age=9",), Directives(max_age_s=5)),
    ],
)
def test_cache_control(values: tuple[bytes, ...], wanted: Directives) -> None:
    assert control(*values) == wanted


@pytest.mark.parametrize(
    ("value", "speed"), [(b"instant", 0), (b"real", 1), (b"4x", 4), (b" 0.5X ", 0.5), (b"1x", 1), (b"9999x", 9999)]
)
def test_speeds(value: bytes, speed: float) -> None:
    assert read_directives([(b"x-replay-speed", value)]).speed == speed


@pytest.mark.parametrize("value", [b"", b"fast", b"4", b"x", b"0x", b"0.0x", b"-1x", b"1e9x", b"99999x", b"nanx"])
def test_speeds_that_are_none(value: bytes) -> None:
    with pytest.raises(MalformedRequest, match=r"X-Replay-Speed must be .*\."):
        read_directives([(b"X-Replay-Speed", value)])


@pytest.mark.parametrize("value", [b"off", b"safe", b"all", b"replay", b" ALL "])
def test_modes(value: bytes) -> None:
    assert read_directives([(b"X-Cache-Mode", value)]).mode == value.decode().strip().lower()


@pytest.mark.parametrize("value", [b"", b"on", b"all, safe", b"\xff"])
def test_modes_that_are_none(value: bytes) -> None:
    with pytest.raises(MalformedRequest, match="X-Cache-Mode must be one of off, safe, all, replay"):
        read_directives([(b"X-Cache-Mode", value)])


@given(st.lists(st.binary(max_size=30), max_size=4))
def test_any_cache_control_can_be_read(values: list[bytes]) -> None:
    found = control(*values)
    assert found.no_store == forbids_storing((b"cache-control", value) for value in values)
    assert found.max_age_s is None or 0 <= found.max_age_s <= 2**31


def test_sharing() -> None:
    assert PLAIN.may_share
    assert Directives(mode="all", speed=4).may_share
    for choosy in (
        Directives(no_cache=True), Directives(no_store=True), Directives(max_age_s=1), Directives(only_if_cached=True)
    ):  # fmt: skip
        assert not choosy.may_share
