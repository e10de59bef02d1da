"""Redaction of everything but bodies, and the way to a body's scrubber."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import re2

from gemini_caching_proxy.content_coding import uncoded

from .fingerprints import FINGERPRINT, Fingerprints
from .formats import FormatFinder
from .headers import Kind, kind_of
from .needles import SHORTEST_SECRET, Needles, encodings
from .scrubber import BodyScrubber

MEMORY: Final = 1024
"""Most targets, headers and sets of credentials whose outcome is remembered."""
LONGEST_REMEMBERED: Final = 2048
SHORTEST_FORMAT: Final = 16
"""Bytes of the shortest credential that has a documented format."""
MOST_RECENT: Final = 256

_SECRET_NAMES: Final = frozenset(
    b"key access_token accesstoken api_key apikey api-key auth auth_token authorization awsaccesskeyid bearer "
    b"bearer_token client_secret code_verifier ephemeral_token id_token oauth_token passwd password pwd refresh_token "
    b"secret session_token sig signature subscription-key token upload_id uploadid x-amz-credential "
    b"x-amz-security-token x-amz-signature x-api-key x-goog-api-key x-goog-credential x-goog-signature".split()
)
_SPLIT: Final = bytes.maketrans(b"?;#", b"&&&")
_SECRET_ENDINGS: Final = (b"secret", b"password", b"signature", b"apikey", b"api_key", b"api-key", b"_token", b"-token")
_CURSORS: Final = (b"page", b"sync", b"skip", b"continu", b"next", b"resume")
_SET_COOKIE_ATTRIBUTES: Final = frozenset(
    b"domain expires httponly max-age partitioned path priority samesite secure".split()
)


K = TypeVar("K")
V = TypeVar("V")


def _pattern(pattern: str) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return re2.compile(pattern.encode("ascii"), options)


class Redactor:
    """Replaces secrets by fingerprints. One per process; safe to share between threads for `text`."""

    def __init__(self, key: bytes, *, record_headers: Iterable[str] = (), bodies: bool = True) -> None:
        """`key`: 32 bytes. `record_headers`: more names to write as they are. `bodies`: look for formats in bodies."""
        self._fingerprints = Fingerprints(key)
        self._recorded = frozenset(name.lower() for name in record_headers)
        self._finder = FormatFinder()
        self._plain = Needles((), self._fingerprints.of, self._finder)
        self._bodies = bodies
        self._kinds: dict[bytes, Kind] = {}
        self._values: dict[tuple[bytes, bytes], bytes] = {}
        self._targets: dict[bytes, bytes] = {}
        self._needles: dict[tuple[bytes, ...], Needles] = {}
        self._recent: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._separators = _pattern(r"([?&;#])")
        self._userinfo = _pattern(r"(://)([^/?#@\s]+)@")
        names = "|".join(sorted(name.decode().replace("-", r"\-") for name in _SECRET_NAMES))
        self._parameter = _pattern(rf"(?i)([?&;#](?:{names})=)([^&;#\s\"'<>\\]+)")

    def __repr__(self) -> str:
        return f"<Redactor bodies={self._bodies} record_headers={sorted(self._recorded)}>"

    def fingerprint(self, secret: bytes) -> str:
        """`fp_` and 16 hex digits, equal for equal secrets."""
        return self._fingerprints.of(secret).decode()

    def header(self, name: bytes, value: bytes) -> bytes:
        """A field's value as it may be written; the very object where it is harmless."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = kind_of(name.decode("latin-1").lower(), self._recorded)
            _remember(self._kinds, name, kind)
        if kind is Kind.PLAIN and len(value) < SHORTEST_FORMAT:
            return value
        clean = self._values.get((name, value))
        if clean is None:
            clean = self._clean_value(kind, value)
            if len(value) <= LONGEST_REMEMBERED:
                _remember(self._values, (name, value), clean)
        return clean

    def target(self, target: bytes) -> bytes:
        """A request target or URL with the secrets of path, query, fragment and user info replaced."""
        clean = self._targets.get(target)
        if clean is None:
            clean = self._clean_target(target)
            if len(target) <= LONGEST_REMEMBERED:
                _remember(self._targets, target, clean)
        return clean

    def text(self, text: str) -> str:
        """A line for people (logs, error details) without known formats, secret parameters and remembered secrets."""
        data = text.encode("utf-8", "surrogatepass")
        clean = data
        for secret, forms in tuple(self._recent.items()):
            for form in forms:
                if form in clean:
                    clean = clean.replace(form, self._fingerprints.of(secret))
        if b"=" in clean:
            clean = self._parameter.sub(lambda match: match[1] + self._parameter_value(match[2]), clean)
        clean = self._without_formats(clean)
        return text if clean is data or clean == data else clean.decode("utf-8", "surrogatepass")

    def remember(self, secret: bytes) -> None:
        """Replace this secret in every `text` from now on; the oldest of many are forgotten."""
        if len(secret) < SHORTEST_SECRET:
            return
        if secret in self._recent:
            self._recent.move_to_end(secret)
            return
        self._recent[secret] = encodings(secret)
        if len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)

    def needles(self, secrets: tuple[bytes, ...] = ()) -> Needles:
        """What to look for in the bodies of an exchange with these credentials."""
        needles = self._needles.get(secrets)
        if needles is None:
            needles = Needles(secrets, self._fingerprints.of, self._finder if self._bodies else None)
            _remember(self._needles, secrets, needles)
        return needles

    def scrubber(self, secrets: tuple[bytes, ...] = ()) -> BodyScrubber:
        """For one body of an exchange with these credentials."""
        return BodyScrubber(self.needles(secrets))

    def compressed_body_holds_secret(self, data: bytes, content_encoding: bytes, secrets: tuple[bytes, ...]) -> bool:
        """Whether a coded body holds something a scrubber would replace, or cannot be shown not to.

        The work is bounded by content_coding.py: 32 MiB of plain bytes, 100 times what came in.
        """
        plain = uncoded(((b"content-encoding", content_encoding),), data)
        if plain.error is not None and not plain.data:
            return True
        scrubber = self.scrubber(secrets)
        scrubber.feed(plain.data)
        scrubber.finish()
        return scrubber.redacted or (plain.error is not None and "grows past" in plain.error)

    def _of(self, secret: bytes) -> bytes:
        return self._fingerprints.of(secret)

    def _without_formats(self, data: bytes) -> bytes:
        hits = self._plain.search(data)
        if not hits:
            return data
        found, _ = self._plain.find(data, hits, b"", final=True)
        pieces: list[bytes] = []
        at = 0
        for each, fingerprint in found:
            pieces += (data[at : each.start], fingerprint)
            at = each.end
        return b"".join((*pieces, data[at:])) if found else data

    def _clean_value(self, kind: Kind, value: bytes) -> bytes:
        match kind:
            case Kind.PLAIN:
                return self._without_formats(value)
            case Kind.URL:
                return self.target(value)
            case Kind.SCHEME:
                scheme, space, secret = value.strip().partition(b" ")
                return scheme + space + self._of(secret.strip()) if secret and scheme.isalnum() else self._secret(value)
            case Kind.COOKIES:
                return b"; ".join(self._cookie(pair) for pair in value.split(b";"))
            case Kind.SET_COOKIE:
                pair, *attributes = value.split(b";")
                return b"; ".join((self._cookie(pair), *map(self._attribute, attributes)))
            case Kind.PROTOCOLS:
                return b", ".join(self._protocol(item.strip()) for item in value.split(b","))
            case Kind.OPAQUE:
                return self._secret(value)

    def _secret(self, value: bytes) -> bytes:
        return self._of(value.strip()) if value.strip() else value

    def _cookie(self, pair: bytes) -> bytes:
        name, equals, value = pair.strip().partition(b"=")
        if not equals:
            return self._secret(name)
        return self._without_formats(name) + b"=" + self._secret(value)

    def _attribute(self, attribute: bytes) -> bytes:
        name, equals, value = attribute.strip().partition(b"=")
        if name.lower() in _SET_COOKIE_ATTRIBUTES:
            return self.target(attribute.strip())
        return self._without_formats(name) + equals + self._secret(value)

    def _protocol(self, item: bytes) -> bytes:
        telling = item.lower()
        if len(item) > 32 or b"key" in telling or b"bearer" in telling or b"token" in telling:
            return self._of(item)
        return self._without_formats(item)

    def _clean_target(self, target: bytes) -> bytes:
        if b"://" in target and b"@" in target:
            target = self._userinfo.sub(lambda match: match[1] + self._of(match[2]) + b"@", target)
        if b"%" not in target and not any(map(_has_secret_name, target.translate(_SPLIT).split(b"&"))):
            return self._without_formats(target)
        pieces = []
        for piece in self._separators.split(target):
            name, equals, value = piece.partition(b"=")
            if equals and _is_secret_name(unquote_to_bytes(name)):
                pieces.append(name + equals + self._parameter_value(value))
            elif b"%" in piece:
                pieces.append(b"/".join(map(self._clean_escaped, piece.split(b"/"))))
            else:
                pieces.append(self._without_formats(piece))
        clean = b"".join(pieces)
        return target if clean == target else clean

    def _clean_escaped(self, piece: bytes) -> bytes:
        """Percent-escapes may hide a credential, or a whole URL with one."""
        name, equals, value = piece.partition(b"=")
        hidden = value if equals else name
        plain = unquote_to_bytes(hidden)
        if plain != hidden and self.target(plain) != plain:
            return name + equals + self._of(plain) if equals else self._of(plain)
        return self._without_formats(piece)

    def _parameter_value(self, value: bytes) -> bytes:
        if not value or FINGERPRINT.fullmatch(value):
            return value
        return self._of(unquote_to_bytes(value))


def _has_secret_name(piece: bytes) -> bool:
    name, equals, _ = piece.partition(b"=")
    return bool(equals) and _is_secret_name(name)


def _is_secret_name(name: bytes) -> bool:
    name = name.lower().strip()
    if name in _SECRET_NAMES:
        return True
    return name.endswith(_SECRET_ENDINGS) and not any(word in name for word in _CURSORS)


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    if len(memory) >= MEMORY:
        memory.clear()
    memory[key] = value
