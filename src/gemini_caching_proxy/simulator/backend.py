"""What all endpoints share: the options, the request as an endpoint sees it, and the standard replies."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from random import Random
from typing import Any
from urllib.parse import parse_qsl, unquote

from . import content
from .call import Call
from .generation import with_int_enums
from .problems import SERVICE, ApiProblem, invalid_argument
from .reply import JSON_TYPE, Headers, Pacing, Reply, Writes, gzipped, one_line, pretty

VERSIONS = ("v1", "v1beta", "v1alpha", "v1main")


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How a simulator behaves when nothing in a request says otherwise."""

    seed: int = 0
    """Same seed and same request: same answer."""
    fresh: bool = False
    """Gives every repetition of a request another answer, as the real API does."""
    accepted_keys: frozenset[str] | None = None
    """Credentials that are valid; None takes any."""
    require_credential: bool = True
    extra_models: tuple[str, ...] = ()
    """Names that exist besides the catalogue."""
    base_path: str = ""
    """Path in front of everything, such as `/gateway`."""
    pacing: Pacing = field(default_factory=Pacing)
    chunks: int | None = None
    """Objects in a stream; None draws a number by the length of the answer."""
    gzip: bool = True
    """Compress JSON when the client accepts it."""
    batch_polls: int = 2
    """Polls after which a batch or an operation is done."""
    file_polls: int = 0
    """Polls for which an uploaded video stays PROCESSING."""
    upload_granularity: int = 8 * 1024 * 1024
    """Bytes of which every upload chunk but the last must be a multiple."""
    file_uri_base: str = f"https://{SERVICE}"
    """What `file.uri` starts with: the API's own address, never the simulator's."""


class Request:
    """A call with its target taken apart.

    `path` is the target without query, base path and doubled slashes; `area` is "", `upload`, `download` or `ws`;
    `resource` is what follows the version.
    """

    def __init__(self, call: Call, options: SimulatorOptions) -> None:
        self.call = call
        self.method = call.method.decode("latin-1")
        raw_path, _, raw_query = call.target.decode("latin-1").partition("?")
        self.query = dict(parse_qsl(raw_query, keep_blank_values=True))
        path = unquote(raw_path).removeprefix(options.base_path)
        self.path = "/" + "/".join(filter(None, path.split("/")))
        segments = self.path.split("/")[1:]
        self.area = segments.pop(0) if segments[0] in ("upload", "download", "ws") else ""
        self.version = segments.pop(0) if segments and segments[0] in VERSIONS else ""
        self.resource = "/".join(segments)
        alt = self.query.get("$alt") or self.query.get("alt") or ""
        self.sse = alt == "sse"
        self.int_enums = "enum-encoding=int" in alt.replace(" ", "")
        self.wants: dict[str, str] = dict(
            parse_qsl((self.header("x-simulator-options") or "").replace(" ", ""), separator=";")
        )
        self._json: Any = None

    def header(self, name: str) -> str | None:
        value = self.call.header(name.encode())
        return None if value is None else value.decode("latin-1")

    @property
    def model(self) -> str | None:
        """The bare model name in the path."""
        kind, _, rest = self.resource.partition("/")
        return rest.split(":")[0].split("/")[0] if kind in ("models", "tunedModels") and rest else None

    async def json(self) -> dict[str, Any]:
        """The body, an object.

        Raises:
            ApiProblem: 400 when it is none.
        """
        if self._json is None:
            data = await self.call.body()
            try:
                self._json = json.loads(data or b"{}")
            except ValueError as error:
                raise invalid_argument(f"Invalid JSON payload received. {error}") from None
        if not isinstance(self._json, dict):
            raise invalid_argument("Invalid JSON payload received. Unknown name: the root is no object.")
        return self._json

    def pacing(self, default: Pacing) -> Pacing:
        """The pacing, with what `x-simulator-options: first_byte_ms=…; chunk_ms=…; writes=…` asks for."""
        wants = self.wants
        if not wants:
            return default
        writes: dict[str, Writes] = {"event": "event", "split": "split", "joined": "joined", "drip": "drip"}
        return replace(
            default,
            first_byte_s=_seconds(wants, "first_byte_ms", default.first_byte_s),
            chunk_s=_seconds(wants, "chunk_ms", default.chunk_s),
            drip_s=_seconds(wants, "drip_ms", default.drip_s),
            writes=writes.get(wants.get("writes", ""), default.writes),
        )

    def chunks(self, default: int | None) -> int | None:
        return _integer(self.wants, "chunks") or default


def _seconds(wants: dict[str, str], name: str, default: float) -> float:
    number = _integer(wants, name)
    return default if number is None else number / 1000


def _integer(wants: dict[str, str], name: str) -> int | None:
    try:
        return int(wants[name])
    except (KeyError, ValueError):
        return None


class Backend:
    """The state of a simulated API besides its collections: options, address, names."""

    def __init__(self, options: SimulatorOptions) -> None:
        self.options = options
        self.url = ""
        """The server's own base URL, for the URLs it hands out."""
        self._names = Random(options.seed ^ 0x5EED)
        self._repetitions = 0

    def new_name(self, length: int = 12) -> str:
        return content.identifier(self._names, length)

    def nonce(self, request: Request) -> int:
        """0, or a running number where every answer shall differ."""
        if not (self.options.fresh or request.wants.get("fresh")):
            return 0
        self._repetitions += 1
        return self._repetitions

    def rng(self, *facts: str) -> Random:
        return content.rng_for(self.options.seed, *facts)

    @property
    def own_url(self) -> str:
        """Base URL with the base path."""
        return self.url + self.options.base_path


def timestamp(after_s: float = 0.0) -> str:
    """RFC 3339 in UTC with microseconds, as the API prints times."""
    return (datetime.now(UTC) + timedelta(seconds=after_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def common_headers(request: Request, *, content_type: bytes = JSON_TYPE) -> Headers:
    """Headers that the API's front end sends with everything."""
    duration = 20 + time.monotonic_ns() // 1_000_000 % 900
    origin = request.call.header(b"origin")
    cors: Headers = ()
    if origin is not None:
        exposed = b"x-goog-upload-url,x-goog-upload-status,vary,server-timing"
        cors = ((b"Access-Control-Allow-Origin", origin), (b"Access-Control-Expose-Headers", exposed))
    return (
        (b"Content-Type", content_type),
        (b"Vary", b"Origin"),
        (b"Vary", b"X-Origin"),
        (b"Vary", b"Referer"),
        (b"Date", formatdate(usegmt=True).encode()),
        (b"Server", b"scaffolding on HTTPServer2"),
        (b"X-XSS-Protection", b"0"),
        (b"X-Frame-Options", b"SAMEORIGIN"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Server-Timing", b"gfet4t7; dur=%d" % duration),
        (b"Alt-Svc", b'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000'),
        *cors,
    )


def json_reply(request: Request, value: Any, *, status: int = 200, more: Headers = ()) -> Reply:
    """A pretty-printed JSON answer, chunked as the API's unary answers are."""
    text = pretty(with_int_enums(value) if request.int_enums else value) + "\n"
    return Reply(status, (*common_headers(request), *more), (text.encode(),))


def problem_reply(request: Request, problem: ApiProblem) -> Reply:
    """An error in the dialect of the request."""
    body: Any = problem.body()
    if request.resource.startswith("interactions"):
        body = problem.interactions_body()
    elif request.resource.startswith("openai/") or (":streamGenerateContent" in request.resource and not request.sse):
        body = [body]
    reply = json_reply(request, body, status=problem.code)
    if request.sse:
        # Recorded: the event-stream type around a plain JSON error.
        headers = common_headers(request, content_type=b"text/event-stream")
        return replace(reply, headers=headers, framing="length")
    return reply


def sse_reply(request: Request, objects: list[dict[str, Any]]) -> Reply:
    """`data: {…}` CR LF CR LF per object and nothing at the end."""
    values = [with_int_enums(value) for value in objects] if request.int_enums else objects
    headers = common_headers(request, content_type=b"text/event-stream")
    events = tuple(f"data: {one_line(value)}\r\n\r\n".encode() for value in values)
    return Reply(
        200, (*headers, (b"Content-Disposition", b"attachment"), (b"X-Gemini-Service-Tier", b"standard")), events
    )


def array_reply(request: Request, objects: list[dict[str, Any]]) -> Reply:
    """A JSON array that grows: `[{…}`, then `,\\r\\n{…}` each, then `]` without a final line feed."""
    values = [with_int_enums(value) for value in objects] if request.int_enums else objects
    events = [("\n,\r\n" if number else "[") + pretty(value) for number, value in enumerate(values)]
    headers = (*common_headers(request), (b"X-Gemini-Service-Tier", b"standard"))
    return Reply(200, headers, tuple(event.encode() for event in (*events, "\n]")))


def encoded(request: Request, reply: Reply, *, allowed: bool) -> Reply:
    """gzip for JSON when asked for; event streams are never compressed."""
    accepts = "gzip" in (request.header("accept-encoding") or "")
    if allowed and accepts and reply.content_type == JSON_TYPE and reply.framing == "chunked":
        return gzipped(reply)
    return reply
