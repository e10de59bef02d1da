"""Bytes as they lie in the file: compressed where that is shorter; numbers as differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise

import msgspec
import zstandard

from .facets import clean

_MAGIC = b"\x28\xb5\x2f\xfd"
_SHORT = 24
_LARGE = 4 * 1024 * 1024
_COMMON = (
    b'{"contents": [\xc4\x01,\xc4\x01,\xc4\x01,\xc4\x02, \xc4\x02, \xc4\x02, '
    b'{"error":{"code":429,"message":"","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/'
    b"text/event-stream; charset=UTF-8application/jsonMon, 01 Jan 2026 00:00:00 GMTgfet4t7; dur="
    b'"generationConfig":{"temperature":1,"thinkingConfig":{"includeThoughts":true}},"systemInstruction":{"parts":[{"'
    b'"functionResponse": {"name": "", "response": {"output": ""}}}]}{"role":"user","parts":[{"inlineData":{"'
    b'data: {"candidates":[{"content":{"parts":[{"text":"","thought":true,"thoughtSignature":"functionCall":{"name":"",'
    b'"args":{}}}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":10,'
    b'"candidatesTokenCount":10,"totalTokenCount":10,"cachedContentTokenCount":10,"promptTokensDetails":[{"modality":'
    b'"TEXT","tokenCount":10}],"thoughtsTokenCount":10},"modelVersion":"gemini-2.5-flash","responseId":"'
    b'data: {"candidates": [{"content": {"parts": [{"text": "", "thought": true}], "role": "model"}, "finishReason": '
    b'"STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": '
    b'10}, "modelVersion": "gemini-2.5-flash", "responseId": ""}\r\n\r\n'
    b'{"id":"chatcmpl-","object":"chat.completion.chunk","created":1,"model":"","choices":[{"index":0,"delta":{"role":'
    b'"assistant","content":""},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n{"role": "user", "parts": [{"text": "'
)
"""What many bodies have in common. What was packed beside it can be read only with it, so it never changes."""
_numbers_decoder = msgspec.msgpack.Decoder(list[int])


class Codec:
    """Compression for one thread: zstd contexts must not be shared between threads."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=False)
        self._quick_compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, data: bytes) -> bytes:
        """`data` in its shorter form: a mark, then a zstd frame without its magic number, or the bytes as they are."""
        if len(data) < _SHORT:
            return b"\0" + data
        compressor = self._compressor if len(data) < _LARGE else self._quick_compressor
        frame = compressor.compress(data)
        return b"\1" + frame[len(_MAGIC) :] if len(frame) - len(_MAGIC) < len(data) else b"\0" + data

    def unpack(self, packed: bytes) -> bytes:
        if packed[:1] == b"\0":
            return packed[1:]
        return self._decompressor.decompress(_MAGIC + packed[1:])

    def unpack_first(self, packed: bytes, size: int) -> bytes:
        """The first `size` bytes, or all if there are fewer, without unpacking much more."""
        if packed[:1] == b"\0":
            return packed[1 : size + 1]
        with self._decompressor.stream_reader(_MAGIC + packed[1:]) as reader:
            return reader.read(size)

    def pack_beside(self, data: bytes, known: bytes) -> bytes:
        """`data` packed by one who will have `known` to unpack it: what the two share costs next to nothing."""
        if len(data) < _SHORT:
            return b"\0" + data
        compressor = zstandard.ZstdCompressor(
            level=3 if len(data) < _LARGE else 1, dict_data=_dictionary(known), write_checksum=False
        )
        frame = compressor.compress(data)
        return b"\2" + frame[len(_MAGIC) :] if len(frame) - len(_MAGIC) < len(data) else b"\0" + data

    def unpack_beside(self, packed: bytes, known: bytes) -> bytes:
        """What `pack_beside` packed with the same `known`."""
        if packed[:1] != b"\2":
            return self.unpack(packed)
        return zstandard.ZstdDecompressor(dict_data=_dictionary(known)).decompress(_MAGIC + packed[1:])

    def pack_part(self, data: bytes, text: str) -> bytes:
        """A part and its text in one frame: the text repeats the part, so it costs a few bytes."""
        return self.pack(data + clean(text).encode())

    def unpack_part(self, packed: bytes, size: int) -> tuple[bytes, str]:
        both = self.unpack(packed)
        return both[:size], both[size:].decode()


def _dictionary(known: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(_COMMON + known, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def differences(numbers: Sequence[int]) -> list[int]:
    """Each number less the one before, the first less 0; `accumulate` is the way back."""
    return [later - earlier for earlier, later in pairwise(chain((0,), numbers))]


def pack_numbers(numbers: Sequence[int], codec: Codec) -> bytes:
    """Part numbers: mostly one follows the other, so differences are mostly 1 and compress to almost nothing."""
    return codec.pack(msgspec.msgpack.encode(differences(numbers)))


def unpack_numbers(packed: bytes, codec: Codec) -> Iterator[int]:
    return accumulate(_numbers_decoder.decode(codec.unpack(packed)))
