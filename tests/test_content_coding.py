import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.content_coding import MAX_PLAIN_BYTES, RATIO_FREE_BYTES, content_codings, uncoded

ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def header(coding: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Content-Encoding", coding.encode()),)


def cut(data: bytes, size: int) -> list[int]:
    return [len(data[start : start + size]) for start in range(0, len(data), size)]


@pytest.mark.parametrize("coding", ENCODERS)
@given(body=st.binary(min_size=1, max_size=3000), size=st.integers(1, 500))
def test_any_split_of_a_coded_body_gives_the_body(coding: str, body: bytes, size: int) -> None:
    coded = ENCODERS[coding](body)
    plain = uncoded(header(coding), coded, cut(coded, size))
    assert (plain.data, plain.error) == (body, None)
    assert plain.ends[-1] == len(body)
    assert list(plain.ends) == sorted(plain.ends)


def test_a_plain_body_is_itself_and_its_ends_are_its_chunks() -> None:
    plain = uncoded((), b"abcdef", (1, 2, 3))
    assert (plain.data, plain.ends, plain.error) == (b"abcdef", (1, 3, 6), None)


def test_a_flushed_stream_is_readable_piece_by_piece() -> None:
    encoder = zlib.compressobj(wbits=31)
    pieces = [encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH) for text in (b"data: 1\n\n", b"data: 22\n\n")]
    pieces.append(encoder.flush())
    plain = uncoded(header("gzip"), b"".join(pieces), map(len, pieces))
    assert plain.ends == (9, 19, 19)


def test_raw_deflate_many_members_and_two_codings_are_read() -> None:
    encoder = zlib.compressobj(wbits=-15)
    assert uncoded(header("deflate"), encoder.compress(b"raw") + encoder.flush()).data == b"raw"
    assert uncoded(header("gzip"), gzip.compress(b"a") * 1025).data == b"a" * 1025
    assert uncoded(header("gzip, br"), brotli.compress(gzip.compress(b"twice"))).data == b"twice"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_stopped_early(coding: str) -> None:
    bomb = ENCODERS[coding](b"\0" * (MAX_PLAIN_BYTES * 2))
    plain = uncoded(header(coding), bomb)
    assert plain.error is not None
    assert len(plain.data) <= max(RATIO_FREE_BYTES, 100 * len(bomb)) + 33 * 1024 * 1024
    assert len(plain.data) < MAX_PLAIN_BYTES * 2


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_damaged_body_tells_so(coding: str) -> None:
    coded = bytearray(ENCODERS[coding](bytes(range(256)) * 20))
    coded[2:] = b"\xff" * 2000
    plain = uncoded(header(coding), bytes(coded))
    assert plain.error is not None
    assert coding in plain.error


def test_a_cut_body_gives_what_came() -> None:
    coded = gzip.compress(b"0123456789" * 1000)
    plain = uncoded(header("gzip"), coded[:-12])
    assert plain.data
    assert (b"0123456789" * 1000).startswith(plain.data)


def test_unknown_codings_are_named() -> None:
    assert "rot13" in (uncoded(header("rot13"), b"abc").error or "")
    assert uncoded(header("gzip, gzip, gzip"), b"abc").error
    assert content_codings(((b"content-encoding", b"identity"),)) == ()
