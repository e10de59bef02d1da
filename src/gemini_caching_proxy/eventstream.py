"""Bytes in any chunking -> the events of a stream: server-sent events, or the items of a streamed JSON array.

Invariants: the same bytes give the same events, with the same offsets, however they are cut; nothing raises on bad
input: what is wrong is told in `problems`; an event larger than `max_event_bytes` is skipped and told, so memory is
bounded. Events are cut out here, never read: their data stays bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 32 * 1024 * 1024
MAX_PROBLEMS = 8
"""More are not told: one broken stream can hold thousands."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
# Possessive, so that neither long strings nor many escapes cost memory.
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRUCTURE = re.compile(rb'["{}\[\],]')
_BETWEEN = re.compile(rb"[ \t\r\n]*+")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    data: bytes
    """The data lines joined by LF, or the JSON item."""
    start: int
    """Offset in the stream of its first byte (of its first field, for server-sent events)."""
    end: int
    """Offset after its last byte, the ending blank line included."""
    name: str = ""
    """Field `event`; empty for the default."""
    id: str | None = None
    terminated: bool = True
    """Whether its end was seen: false for a last event that the stream's end cut short or left without a blank line."""


class SseParser:
    """Server-sent events (WHATWG HTML section 9.2.6), read like a browser reads them with two differences.

    A last event without its blank line is given too (`terminated` false), and a line that ends in CR at the end of a
    chunk waits for the next byte, which may be its LF.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.problems: list[str] = []
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._base = 0
        """Offset in the stream of the buffer's first byte."""
        self._searched = 0
        """How much of the buffer is known to hold no line end."""
        self._skipping_line = False
        self._reset()

    def __repr__(self) -> str:
        return f"<SseParser at {self._base}, {len(self._buffer)} bytes wait>"

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes."""
        self._buffer += chunk
        return self._take(at_end=False)

    def finish(self) -> list[Event]:
        """The last event, if the stream's end cut it short; no `feed` may follow."""
        events = self._take(at_end=True)
        if self._buffer:
            end = self._base + len(self._buffer)
            self._line(bytes(self._buffer), self._base)
            self._buffer.clear()
            self._base = end
        if (event := self._event(self._base, terminated=False)) is not None:
            events.append(event)
        return events

    def _reset(self) -> None:
        self._start: int | None = None
        self._data: list[bytes] = []
        self._size = 0
        self._name = ""
        self._id: str | None = None
        self._too_large = False

    def _take(self, *, at_end: bool) -> list[Event]:
        events: list[Event] = []
        buffer, position, size = self._buffer, 0, len(self._buffer)
        search = self._searched
        while (match := _LINE_END.search(buffer, max(position, search))) is not None:
            if match.end() == size and not at_end and match.group() == b"\r":
                break
            if match.start() == position and not self._skipping_line:
                if (event := self._event(self._base + match.end(), terminated=True)) is not None:
                    events.append(event)
            else:
                self._line(bytes(buffer[position : match.start()]), self._base + position)
            self._skipping_line = False
            position = match.end()
        del buffer[:position]
        self._base += position
        self._searched = max(0, len(buffer) - 1)
        if len(buffer) > self._max and not at_end:
            self._skip_line()
        return events

    def _skip_line(self) -> None:
        """Drop what is held of a line that outgrew the limit; a CR that waits at its end stays."""
        dropped = len(self._buffer) - (self._buffer[-1:] == b"\r")
        if dropped <= self._max and not self._skipping_line:
            return
        if not self._skipping_line:
            self._begin(self._base)
            self._overflow()
        self._skipping_line = True
        del self._buffer[:dropped]
        self._base += dropped
        self._searched = 0

    def _line(self, line: bytes, offset: int) -> None:
        if self._skipping_line:
            self._skipping_line = False
            return
        if len(line) > self._max:
            self._begin(offset)
            self._overflow()
            return
        if offset == 0 and line.startswith(_BOM):
            line, offset = line[3:], 3
        if not line or line[0] == 0x3A:
            return
        self._begin(offset)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value) + 1
            if self._size > self._max:
                self._overflow()
            elif not self._too_large:
                self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif field != b"retry":
            self._problem(f"a line is no field of an event (byte {offset})")

    def _begin(self, offset: int) -> None:
        if self._start is None:
            self._start = offset

    def _overflow(self) -> None:
        if not self._too_large:
            self._problem(f"an event is larger than {self._max} bytes (byte {self._start})")
        self._too_large = True
        self._data.clear()

    def _event(self, end: int, *, terminated: bool) -> Event | None:
        start, data = self._start, self._data
        event = None
        if start is not None and data and not self._too_large:
            event = Event(b"\n".join(data), start, end, self._name, self._id, terminated)
        self._reset()
        return event

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


class ArrayParser:
    """The items of a JSON array that comes in pieces, as Gemini streams without `alt=sse`.

    Brackets are counted, not matched by kind, and items are not validated: whoever reads an item's JSON sees.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.problems: list[str] = []
        self.closed = False
        """Whether the array's `]` was seen."""
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._base = 0
        self._scanned = 0
        """How much of the buffer was looked at; one more than there is after a backslash at its end."""
        self._depth = 0
        self._in_string = False
        self._item: int | None = None
        """Where in the buffer the present item starts."""
        self._too_large = False
        self._started = False
        self._no_array = False
        self._trailing = False
        """Whether something after the array was told."""

    def __repr__(self) -> str:
        return f"<ArrayParser at {self._base}, depth {self._depth}, {len(self._buffer)} bytes wait>"

    def feed(self, chunk: bytes) -> list[Event]:
        """The items that `chunk` completes."""
        events: list[Event] = []
        if self._no_array:
            return events
        self._buffer += chunk
        if self._started or self._open():
            self._scan(events)
        self._forget()
        return events

    def finish(self) -> list[Event]:
        """The item that the stream's end cut short, if any; no `feed` may follow."""
        events: list[Event] = []
        if not self._started:
            self._problem("there is no array")
        elif self._no_array:
            pass
        elif not self.closed:
            self._problem("the array does not end")
            if self._item is not None:
                self._emit(events, len(self._buffer), terminated=False)
        return events

    def _open(self) -> bool:
        """Take the opening bracket; false while there is none."""
        if self._base == 0 and self._buffer[:3] == _BOM[: len(self._buffer)] and self._buffer:
            if len(self._buffer) < 3:
                return False
            self._scanned = max(self._scanned, 3)
        start = self._past_blanks(self._scanned)
        self._scanned = start
        if start >= len(self._buffer):
            return False
        self._started = True
        if self._buffer[start] == 0x5B:
            self._depth = 1
            self._scanned = start + 1
            return True
        self._problem(f"the stream does not start with an array (byte {self._base + start})")
        self._no_array = True
        self._scanned = len(self._buffer)
        return False

    def _past_blanks(self, position: int) -> int:
        match = _BETWEEN.match(self._buffer, position)
        return match.end() if match else position

    def _scan(self, events: list[Event]) -> None:
        buffer, size = self._buffer, len(self._buffer)
        while self._scanned < size:
            if self._in_string:
                self._scan_string()
            elif self.closed:
                if not self._trailing and (rest := self._past_blanks(self._scanned)) < size:
                    self._trailing = True
                    self._problem(f"something follows the array (byte {self._base + rest})")
                self._scanned = size
            else:
                if self._item is None and self._depth == 1:
                    self._scanned = self._past_blanks(self._scanned)
                    if self._scanned == size:
                        return
                    if buffer[self._scanned] not in b",]":
                        self._item = self._scanned
                match = _STRUCTURE.search(buffer, self._scanned)
                if match is None:
                    self._scanned = size
                    return
                self._scanned = match.end()
                self._structure(buffer[match.start()], match.start(), events)

    def _scan_string(self) -> None:
        match = _STRING_REST.match(self._buffer, self._scanned)
        assert match is not None, "the pattern matches nothing too"
        stop = match.end()
        if stop >= len(self._buffer):
            self._scanned = stop
        elif self._buffer[stop] == 0x22:
            self._in_string = False
            self._scanned = stop + 1
        else:
            # A backslash whose escaped character has not come yet.
            self._scanned = stop + 2

    def _structure(self, byte: int, position: int, events: list[Event]) -> None:
        if byte == 0x22:
            self._in_string = True
        elif byte in b"{[":
            self._depth += 1
        elif byte in b"}]":
            self._depth -= 1
            if self._depth == 0:
                self._emit(events, position, terminated=True)
                self.closed = True
        elif self._depth == 1:
            self._emit(events, position, terminated=True)
        if self._depth == 1 and byte in b"}]" and self._item is not None:
            self._emit(events, position + 1, terminated=True)

    def _emit(self, events: list[Event], stop: int, *, terminated: bool) -> None:
        if self._item is None:
            return
        data = bytes(self._buffer[self._item : stop])
        start = self._base + self._item
        too_large = self._too_large or len(data) > self._max
        data = data.rstrip(b" \t\r\n")
        self._item = None
        if too_large:
            if not self._too_large:
                self._problem(f"an item is larger than {self._max} bytes (byte {start})")
            self._too_large = False
        elif data:
            events.append(Event(data, start, start + len(data), terminated=terminated))

    def _forget(self) -> None:
        """Drop what no item needs any more, and all but the place of an item that outgrew the limit."""
        size = len(self._buffer)
        done = min(self._scanned, size) if self._item is None else self._item
        if self._item is not None and size - self._item > self._max:
            if not self._too_large:
                self._problem(f"an item is larger than {self._max} bytes (byte {self._base + self._item})")
            self._too_large = True
            done = min(self._scanned, size)
        del self._buffer[:done]
        self._base += done
        self._scanned -= done
        if self._item is not None:
            self._item = 0

    def _problem(self, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


@dataclass(frozen=True, slots=True)
class Events:
    """All of a stream."""

    events: tuple[Event, ...]
    problems: tuple[str, ...]
    closed: bool
    """Whether the stream came to its end: the array's `]`, or a last event with its blank line."""


def read_sse(body: bytes, *, max_event_bytes: int = MAX_EVENT_BYTES) -> Events:
    """All events of a whole body."""
    parser = SseParser(max_event_bytes=max_event_bytes)
    events = parser.feed(body) + parser.finish()
    return Events(tuple(events), tuple(parser.problems), bool(events) and events[-1].terminated)


def read_array(body: bytes, *, max_event_bytes: int = MAX_EVENT_BYTES) -> Events:
    """All items of a whole body."""
    parser = ArrayParser(max_event_bytes=max_event_bytes)
    events = parser.feed(body) + parser.finish()
    return Events(tuple(events), tuple(parser.problems), parser.closed)
