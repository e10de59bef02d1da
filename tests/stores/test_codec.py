"""Packing, alone and beside something known; what was packed by earlier versions can still be read."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.stores.codec import Codec

EVENT = (
    b'data: {"candidates":[{"content":{"parts":[{"text":"A well-known text"}],"role":"model"},"finishReason":"STOP",'
    b'"index":0}]}\r\n\r\n'
)
KNOWN = b"This is a well-known text."
PACKED = "02207ea500003841227d0d0a0d0a0300192ca7200139e43e4510"
"""`EVENT` beside `KNOWN`, as the first version packed it."""

data = st.binary(max_size=200) | st.builds(lambda seed: random.Random(seed).randbytes(3000), st.integers(0, 9))
codec = Codec()


def test_what_the_first_version_packed_is_still_read() -> None:
    assert codec.unpack_beside(bytes.fromhex(PACKED), KNOWN) == EVENT


@given(data, data)
def test_what_is_packed_beside_something_comes_back(packed: bytes, known: bytes) -> None:
    result = codec.pack_beside(packed, known)
    assert codec.unpack_beside(result, known) == packed
    assert len(result) <= len(packed) + 1


@given(data)
def test_what_is_packed_alone_comes_back(packed: bytes) -> None:
    assert codec.unpack(codec.pack(packed)) == packed
    assert codec.unpack_beside(codec.pack(packed), b"whatever") == packed


def test_what_is_known_costs_next_to_nothing() -> None:
    noise = random.Random(1).randbytes(10_000)
    assert len(codec.pack_beside(noise, noise)) < 40
    assert len(codec.pack_beside(noise, noise[:5000])) < 5100
