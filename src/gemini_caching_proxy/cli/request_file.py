"""A request written out as text (as `curl --trace` and `*.http` files show one), read as if it had come in.

Nothing is sent. A key in a header or in the query is only used to find the recordings of that key.
"""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path
from time import time_ns
from urllib.parse import urlsplit

from blake3 import blake3

from gemini_caching_proxy.credentials import Credentials
from gemini_caching_proxy.exchange import Body, Exchange, Failure, FailureKind
from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.redaction import Redactor, load_fingerprint_key
from gemini_caching_proxy.settings import Settings

_REQUEST_LINE = re.compile(rb"([A-Z]{3,10}) (\S+)(?: HTTP/[0-9.]+)?\s*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t\r]*")
_CREDENTIAL_FIELDS = (b"authorization", b"x-goog-api-key")
MOST_BYTES = 256 * 1024 * 1024
STDIN = "-"


def read_request(name: str, settings: Settings) -> Exchange:
    """The request in a file (`-` is standard input), as an exchange without an answer.

    Raises:
        ValueError: a sentence that says what is wrong with it.
    """
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(MOST_BYTES)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MOST_BYTES)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
    return parse_request(data, settings)


def parse_request(data: bytes, settings: Settings) -> Exchange:
    """As `read_request`, for what a file holds."""
    head, body = _halves(data)
    lines = [line for line in head if line.strip() and not line.startswith((b"#", b"//"))]
    match = _REQUEST_LINE.fullmatch(lines[0]) if lines else None
    if match is None:
        raise ValueError("it does not begin with a request line such as `POST /v1beta/models/NAME:generateContent`")
    headers = tuple(map(_field, lines[1:]))
    target = _path_of(match[2])
    route = providers()["gemini"].route(match[1], target)
    redactor = _redactor(settings)
    key = settings.gemini_api_key
    own_key = key.get_secret_value().encode() if key and redactor else None
    credential_lines = tuple(
        name + b": " + value + b"\r\n" for name, value in headers if name.lower() in _CREDENTIAL_FIELDS
    )
    settlement = Credentials(own_key, redactor.fingerprint if redactor else lambda _: "").settle(
        credential_lines, target.partition(b"?")[2], route
    )
    return Exchange(
        id=uuid.uuid4(),
        started_ns=time_ns(),
        provider=route.provider,
        operation=route.operation,
        method=match[1].decode(),
        target=(redactor.target(target) if redactor else target).decode("latin-1"),
        upstream=settings.gemini_base_url,
        outcome=Failure(FailureKind.INTERRUPTED, "Never sent."),
        model=route.model,
        credential=settlement.fingerprint or None,
        credential_source=settlement.source,
        request_headers=headers,
        request_body=Body(body, len(body), blake3(body).hexdigest()),
    )


def _halves(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the head, and the body behind the first empty line after the request line."""
    lines: list[bytes] = []
    position, begun = 0, False
    while position < len(data):
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end + 1
        line = data[position:end].strip(b"\r\n")
        position = end
        if begun and not line.strip():
            break
        begun = begun or _REQUEST_LINE.fullmatch(line) is not None
        lines.append(line)
    return lines, data[position:].strip(b"\r\n")


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise ValueError(f"{line[:80].decode(errors='replace')!r} is no header field; an empty line ends the head")
    return match[1], match[2]


def _path_of(target: bytes) -> bytes:
    if target.startswith(b"/"):
        return target
    parts = urlsplit(target)
    if not parts.scheme or not parts.netloc:
        raise ValueError("the request line needs a path that begins with /, or a whole URL")
    return (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")


def _redactor(settings: Settings) -> Redactor | None:
    """The data folder's; None where there is none, for asking must not make one."""
    if not (settings.data_dir / "fingerprint.key").exists():
        return None
    return Redactor(load_fingerprint_key(settings.data_dir), record_headers=settings.record_headers)
