"""Exactly one credential goes upstream: which of the client's, or the proxy's own.

The Gemini API refuses a call that carries two (400, "Multiple authentication credentials received"), and SDKs refuse to
start without a key, so clients of a proxy that holds the real key send placeholders. Choices are remembered per
combination, so a known client costs one look-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .providers.base import Route

# Words that people type where a key is demanded. Anchored and without nesting, so linear in time.
_PLACEHOLDER = re.compile(
    rb"(?:bearer +)?(?:|x+|y+|0+|1234\d*|abc\d*|[.*-]+|<[^>]*>|\$?\{[^}]*\}|"
    rb"none|null|undefined|any(?:thing)?|empty|unused|"
    rb"not[-_ ]?(?:needed|required|used|set)|no[-_ ]?(?:api)?[-_ ]?key|(?:my|your|the)[-_ ].*key.*|"
    rb"(?:sk-)?(?:dummy|fake|test|placeholder|proxy|local|localhost|changeme|secret|example|demo)"
    rb"(?:[-_ ]?(?:api)?[-_ ]?key)?|"
    rb"(?:gemini|google)?[-_ ]?api[-_ ]?key|key)",
    re.IGNORECASE,
)
_QUERY_CREDENTIALS = (b"key", b"access_token", b"api_key")


def is_placeholder(value: bytes) -> bool:
    """Whether a credential is a word typed to fill a field, not a key."""
    return _PLACEHOLDER.fullmatch(value.strip()) is not None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is sent upstream for authentication, and how it is recorded."""

    lines: tuple[bytes, ...] = ()
    """The client's own credential lines that pass."""
    added: bytes = b""
    """A line put in by the proxy."""
    keep_query: bool = True
    """Whether credentials in the query pass."""
    fingerprint: str | None = None
    source: Literal["client", "proxy", "none"] = "none"
    secrets: tuple[bytes, ...] = ()
    """Raw values to be scrubbed from whatever is recorded of the exchange."""


class Credentials:
    """Settles the credentials of requests."""

    def __init__(self, own_key: bytes | None, fingerprint: Callable[[bytes], str], *, most: int = 4096) -> None:
        self._own_key = own_key
        self._fingerprint = fingerprint
        self._most = most
        self._settled: dict[tuple[tuple[bytes, ...], bytes, str, bool], Settlement] = {}

    def settle(self, lines: tuple[bytes, ...], query: bytes, route: Route) -> Settlement:
        """Choose among the credential header lines (`Name: value` CRLF) and the query string of a request."""
        key = (lines, query_credential(query) if query else b"", route.credential_style, route.needs_no_credential)
        settlement = self._settled.get(key)
        if settlement is None:
            settlement = self._choose(*key)
            if len(self._settled) >= self._most:
                self._settled.clear()
            self._settled[key] = settlement
        return settlement

    def _choose(self, lines: tuple[bytes, ...], query: bytes, style: str, needs_none: bool) -> Settlement:
        found = [(line, line.split(b": ", 1)[1].strip()) for line in lines]
        given = [_bare(value) for _, value in found] + ([query] if query else [])
        secrets = tuple(secret for secret in given if not is_placeholder(secret))
        real = [(line, value) for line, value in found if not is_placeholder(value)]
        real.sort(key=lambda pair: not pair[0].lower().startswith(b"x-goog-api-key"))
        if real:
            line, value = real[0]
            return Settlement((line,), b"", False, self._fingerprint(_bare(value)), "client", secrets)
        if query and not is_placeholder(query):
            return Settlement((), b"", True, self._fingerprint(query), "client", secrets)
        if needs_none:
            return Settlement((), b"", True, None, "none", secrets)
        if self._own_key is not None:
            name = b"Authorization: Bearer " if style == "bearer" else b"x-goog-api-key: "
            print_ = self._fingerprint(self._own_key)
            return Settlement((), name + self._own_key + b"\r\n", False, print_, "proxy", (*secrets, self._own_key))
        if found:
            line, value = found[0]
            return Settlement((line,), b"", False, self._fingerprint(_bare(value)), "client", secrets)
        return Settlement(
            (), b"", True, self._fingerprint(query) if query else None, "client" if query else "none", secrets
        )


class UploadOwners:
    """Who began which resumable upload: the calls that carry its bytes have an `upload_id` and no key."""

    def __init__(self, *, most: int = 4096) -> None:
        self._most = most
        self._owners: dict[bytes, str | None] = {}

    def remember(self, url: bytes, fingerprint: str | None) -> None:
        """`url` is where the bytes will go, `fingerprint` that of the credential which began the upload."""
        if len(self._owners) >= self._most:
            self._owners.pop(next(iter(self._owners)))
        self._owners[upload_id(url.partition(b"?")[2])] = fingerprint

    def owner(self, query: bytes) -> str | None:
        """The fingerprint for a call with this query; None if the upload was not begun here."""
        return self._owners.get(upload_id(query))


def upload_id(query: bytes) -> bytes:
    """The value of `upload_id` in a raw query string; empty for none."""
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        if name == b"upload_id":
            return value
    return b""


def query_credential(query: bytes) -> bytes:
    """The first credential parameter's value in a raw query string, as it stands there; empty for none."""
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        if value and name.lower() in _QUERY_CREDENTIALS:
            return value
    return b""


def without_query_credentials(query: bytes, *, but_the_first: bool = False) -> bytes:
    """The raw query string without its credential parameters (or with one of them), all else byte for byte."""
    kept = []
    for parameter in query.split(b"&"):
        if parameter.partition(b"=")[0].lower() in _QUERY_CREDENTIALS:
            if not but_the_first or not parameter.partition(b"=")[2]:
                continue
            but_the_first = False
        kept.append(parameter)
    return b"&".join(kept)


def _bare(value: bytes) -> bytes:
    scheme, _, rest = value.partition(b" ")
    return rest.strip() if rest and scheme.lower() in (b"bearer", b"token", b"basic") else value
