"""The faults by name, and the fault catalogue F1 to F29 in terms of them.

A fault is asked for as `NAME` or `NAME:ARGUMENT`. F24 (TLS certificates) and F25 (DNS) are not an upstream's to play;
a reset within the TLS handshake is `Server.refuse_connections` on a listener without TLS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from gemini_caching_proxy.simulator.backend import Request
from gemini_caching_proxy.simulator.call import Call
from gemini_caching_proxy.simulator.reply import Pacing, Reply

from . import distortion, refusals, wire

Early = Callable[[Call, str], Awaitable[None]]
Wire = Callable[[Call, Reply, str, Pacing], Awaitable[None]]
Distortion = Callable[[Reply, str], Reply]
Refusal = Callable[[Request, str], Reply]


class Stage(StrEnum):
    """When a fault takes over."""

    EARLY = "early"
    """Instead of an answer, on the request's head."""
    REFUSAL = "refusal"
    """An answer of its own in place of the API's."""
    DISTORTION = "distortion"
    """Changes the API's answer; it is then sent correctly."""
    WIRE = "wire"
    """Sends the API's answer wrongly."""
    WEBSOCKET = "websocket"
    """After a WebSocket handshake; nothing on other calls."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault as it was asked for."""

    name: str
    argument: str
    stage: Stage

    def __str__(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name


class UnknownFaultError(ValueError):
    """No fault has this name."""


EARLY: dict[str, Early] = {
    "rst-before-head": wire.reset_before_head,
    "fin-before-head": wire.finish_before_head,
    "never-answer": wire.never_answer,
    "early-reply": wire.early_reply,
}
REFUSALS: dict[str, Refusal] = {
    "echo-key": refusals.echo_key,
    "location-key": refusals.location_with_key,
    "redirect": refusals.redirect,
    "captive-portal": refusals.captive_portal,
    "body-on-204": refusals.no_content,
    "body-on-304": refusals.not_modified,
    **{str(status): refusals.of_status(status) for status in (400, 401, 403, 404, 429, 499, 500, 503, 504, 529)},
}
DISTORTIONS: dict[str, Distortion] = {
    "big-headers": distortion.big_headers,
    "many-headers": distortion.many_headers,
    "gzip": distortion.gzip_coded,
    "br": distortion.brotli_coded,
    "zstd": distortion.zstd_coded,
    "cut-gzip": distortion.cut_gzip,
    "wrong-encoding": distortion.wrong_encoding,
    "bomb": distortion.bomb,
    "gzip-members": distortion.gzip_members,
    "sse-cr": distortion.sse_cr,
    "sse-lf": distortion.sse_lf,
    "sse-bom": distortion.sse_bom,
    "sse-multiline": distortion.sse_multiline,
    "sse-comments": distortion.sse_comments,
    "sse-unterminated": distortion.sse_unterminated,
    "sse-split-utf8": distortion.sse_split_utf8,
    "sse-huge": distortion.sse_huge,
    "sse-done": distortion.sse_done,
    "error-mid-stream": distortion.error_mid_stream,
    "set-cookie": distortion.set_cookie,
    "trailers": distortion.trailers,
    "truncated": distortion.truncated,
}
WIRE: dict[str, Wire] = {
    "stall-after-head": wire.stall_after_head,
    "stall-at": wire.stall_at,
    "drip": wire.drip,
    "rst-at": wire.reset_at,
    "fin-at": wire.finish_at,
    "short-length": wire.short_length,
    "long-length": wire.long_length,
    "bad-chunk-size": wire.bad_chunk_size,
    "missing-chunk-crlf": wire.missing_chunk_crlf,
    "lf-only": wire.line_feeds_only,
    "cl-te": wire.length_and_coding,
    "two-lengths": wire.two_lengths,
    "two-responses": wire.two_responses,
    "body-on-head": wire.body_on_head,
    "informational": wire.informational,
    "header-value": wire.header_value,
    "garbage": wire.garbage,
}
WEBSOCKET = ("ws-close", "ws-reset", "ws-huge", "ws-pings")

FAULTS: dict[str, Stage] = {
    **dict.fromkeys(EARLY, Stage.EARLY),
    **dict.fromkeys(REFUSALS, Stage.REFUSAL),
    **dict.fromkeys(DISTORTIONS, Stage.DISTORTION),
    **dict.fromkeys(WIRE, Stage.WIRE),
    **dict.fromkeys(WEBSOCKET, Stage.WEBSOCKET),
}
"""Every name and when it acts."""

CATALOGUE: dict[str, tuple[str, ...]] = {
    "F1": ("rst-before-head", "rst-before-head:unread"),
    "F2": ("fin-before-head", "fin-before-head:unread"),
    "F3": ("never-answer", "never-answer:unread"),
    "F4": ("stall-after-head",),
    "F5": ("stall-at:1", "stall-at:1.5"),
    "F6": ("drip:200",),
    "F7": ("rst-at:1", "rst-at:1.5"),
    "F8": ("fin-at:1,chunked", "fin-at:1.5,chunked", "fin-at:1,length", "fin-at:1,close"),
    "F9": ("short-length",),
    "F10": ("long-length",),
    "F11": ("bad-chunk-size", "missing-chunk-crlf", "lf-only"),
    "F12": ("cl-te", "two-lengths"),
    "F13": ("two-responses",),
    "F14": ("body-on-204", "body-on-304", "body-on-head"),
    "F15": ("informational:103", "informational:100", "informational:102x20"),
    "F16": ("big-headers:9000", "big-headers:1000000", "many-headers:1000", "header-value:cr", "header-value:nul"),
    "F17": ("gzip", "br", "zstd", "cut-gzip", "wrong-encoding", "bomb:8", "gzip-members:1025"),
    "F18": ("sse-cr", "sse-lf", "sse-bom", "sse-multiline", "sse-comments", "sse-unterminated", "sse-split-utf8",
            "sse-huge:8", "sse-done"),
    "F19": ("error-mid-stream:1",),
    "F20": ("429", "429:30", "429:date", "429:garbage", "503", "503:30", "529"),
    "F21": ("echo-key:401", "echo-key:403", "location-key"),
    "F22": ("redirect:localhost", "redirect:metadata"),
    "F23": ("set-cookie",),
    "F24": (),
    "F25": (),
    "F26": ("early-reply",),
    "F27": ("captive-portal",),
    "F28": ("trailers",),
    "F29": ("ws-close:1000", "ws-close:1006", "ws-close:1011", "ws-huge:16", "ws-pings:1000", "ws-reset"),
}  # fmt: skip
"""The fault catalogue; `parse("F7")` is the first variant of F7."""


def parse(asked: str) -> Fault:
    """A fault from `NAME`, `NAME:ARGUMENT` or a number of the catalogue.

    Raises:
        UnknownFaultError: no fault has this name.
    """
    variants = CATALOGUE.get(asked.upper())
    if variants:
        return parse(variants[0])
    name, _, argument = asked.strip().partition(":")
    if name not in FAULTS:
        raise UnknownFaultError(f"there is no fault {name!r}")
    return Fault(name, argument, FAULTS[name])
