"""Request heads that were read before: the same bytes mean the same, so they need not be parsed again.

What is remembered is the verdict of llhttp and of our own checks on exactly these bytes; only the digits of
Content-Length may differ. It serves requests that arrived whole in one read on an idle connection; all others are
parsed. Clients send the same head again and again, so this is the way of most small requests.
"""

from __future__ import annotations

from time import monotonic_ns

from .http1 import Field, FieldTable, Request, Shape

LONGEST_HEAD = 4096
MOST_DIGITS = 15
_LENGTHS = ((b"\r\nContent-Length: ", b"Content-Length"), (b"\r\ncontent-length: ", b"content-length"))


class KnownHeads:
    """Shapes by head, bounded."""

    def __init__(self, fields: FieldTable, *, most: int = 2048) -> None:
        self._fields = fields
        self._most = most
        self._shapes: dict[bytes, Shape] = {}

    def __repr__(self) -> str:
        return f"<KnownHeads {len(self._shapes)}>"

    def request(self, data: bytes) -> Request | None:
        """The complete request that `data` is, if its head is known; None if it has to be parsed."""
        found = self._dissect(data)
        if found is None:
            return None
        key, end, length = found
        shape = self._shapes.get(key)
        size = int(length.value) if length is not None else 0
        if shape is None or len(data) != end + size:
            return None
        request = Request()
        request.shape = shape
        request.length = length
        request.head_ns = monotonic_ns()
        request.complete = True
        if size:
            request.pieces.append(data[end:])
        return request

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the head of a request that was parsed, and was all of `data`."""
        found = self._dissect(data)
        shape = request.shape
        if found is None or shape is None or shape.chunked or shape.upgrade or shape.expects_continue:
            return
        key, end, length = found
        # What stands in the head must be what the parser made of it.
        size = int(length.value) if length is not None else 0
        if length is not request.length or len(data) != end + size:
            return
        if len(self._shapes) >= self._most:
            self._shapes.clear()
        self._shapes[key] = shape

    def _dissect(self, data: bytes) -> tuple[bytes, int, Field | None] | None:
        """The head without the digits of its length, where the head ends, and the length."""
        end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) + 4
        if end < 4:
            return None
        for mark, name in _LENGTHS:
            start = data.find(mark, 0, end)
            if start < 0:
                continue
            start += len(mark)
            stop = data.index(b"\r", start)
            digits = data[start:stop]
            if not digits.isdigit() or len(digits) > MOST_DIGITS:
                return None
            return data[:start] + data[stop:end], end, self._fields[name, digits]
        return data[:end], end, None
