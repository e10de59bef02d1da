"""A request's target and headers -> what in them changes the answer, as one string.

Not in it: prefixes, versions, credentials, and everything that only concerns how an answer is written; but integer
enums are, for an answer that has them serves nobody else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from gemini_caching_proxy.exchange import Headers

from .paths import recognise

CODE_ASSIST: Final = "v1internal"
_IGNORED: Final = frozenset(
    (
        *("key", "api_key", "access_token", "oauth_token", "quotaUser", "userIp", "prettyPrint", "$prettyPrint"),
        *("$.xgafv", "$callback"),
    )
)
_VERB = re.compile(r"(?::|%3[Aa])[A-Za-z]+$")
_MODELS: Final = ("models", "tunedModels")


@dataclass(frozen=True, slots=True)
class Address:
    """What a target and its headers say besides operation and model."""

    place: str
    """Resource in front of the model (`projects/p/locations/l/publishers/google`); empty for the API's own models."""
    version: str
    query: str = ""
    """Parameters that change the answer, by name."""
    field_mask: str = ""
    sse: bool = False
    """Whether the query asks for server-sent events."""

    @property
    def variant(self) -> str:
        """Unambiguous, for neither a place nor a query has a space."""
        query = f" ?{self.query}" if self.query else ""
        return f"{self.place}{query} #{self.field_mask}" if self.field_mask else self.place + query


def read_address(target: str, headers: Headers) -> Address:
    path, _, query = target.partition("?")
    api = recognise(path.encode("utf-8", "surrogatepass"))
    if api is None:
        place, version = path, ""
    else:
        segments = [segment.decode("utf-8", "surrogatepass") for segment in api.segments]
        place, version = _place(segments[1:]), segments[0]
        if version.startswith(CODE_ASSIST + ":"):
            place = version = CODE_ASSIST
    parameters, sse = _parameters(query)
    return Address(place, version, parameters, _field_mask(headers), sse)


def _place(segments: list[str]) -> str:
    if not segments:
        return ""
    last = _VERB.sub("", segments[-1])
    if last in _MODELS:
        segments = segments[:-1]
    elif len(segments) > 1 and segments[-2] in _MODELS:
        segments = segments[:-2]
    else:
        segments = [*segments[:-1], last]
    return "/".join(segments)


def _parameters(query: str) -> tuple[str, bool]:
    if not query or query == "alt=sse":
        return "", bool(query)
    kept: list[tuple[str, str]] = []
    sse = False
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        if name in _IGNORED:
            continue
        if name not in ("alt", "$alt"):
            kept.append((name, value))
            continue
        form, *details = (detail.strip() for detail in value.split(";"))
        sse = sse or form == "sse"
        if form not in ("sse", "json", ""):
            kept.append(("alt", form))
        kept.extend(("alt", detail) for detail in details if detail)
    kept.sort(key=lambda parameter: parameter[0])
    return urlencode(kept, errors="surrogatepass"), sse


def _field_mask(headers: Headers) -> str:
    masks = [value for name, value in headers if len(name) == 16 and name.lower() == b"x-goog-fieldmask"]
    return b",".join(masks).decode("latin-1")
