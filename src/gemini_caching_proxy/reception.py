"""Takes every request that was read: refuses it, answers it here, or sends it on its passage.

Answered here: `/healthz`, `/readyz` and CORS preflights. All else belongs to the upstream, known path or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from .call import Call, Surroundings
from .credentials import Credentials, UploadOwners, query_credential, without_query_credentials
from .errors import MalformedRequest, Overloaded, RequestRejected
from .providers.base import Route
from .proxy import Passage
from .relay.downstream import ClientConnection
from .relay.gate import Gate
from .relay.http1 import Request, Shape, error_message, json_message
from .relay.upstream import Pool

Health = Callable[[], tuple[bool, dict[str, Any]]]


class Reception:
    """The front desk of a worker."""

    def __init__(
        self,
        *,
        gate: Gate,
        route: Callable[[bytes, bytes], Route],
        credentials: Credentials,
        owners: UploadOwners,
        pool: Pool,
        around: Surroundings,
        redact_target: Callable[[bytes], bytes],
        readiness: Health,
        refuses: Callable[[], bool] | None,
        client_gone: Literal["cancel", "drain"],
    ) -> None:
        """`readiness` tells whether the worker can do its job; `refuses` whether to take none for now."""
        self._gate = gate
        self._route = route
        self._credentials = credentials
        self._owners = owners
        self._pool = pool
        self._around = around
        self._redact_target = redact_target
        self._readiness = readiness
        self._refuses = refuses
        self._client_gone = client_gone
        self.passages: set[Passage] = set()

    def start(self, client: ClientConnection, request: Request) -> Passage | None:
        """Begin with a request whose head is read; None if it was answered here."""
        shape = request.shape
        assert shape is not None
        call: Call | None = shape.plan
        try:
            if call is None:
                call = self._new_call(client, shape)
                if call is None:
                    return None
                shape.plan = call
            if self._refuses is not None and self._refuses():
                raise Overloaded("The journal cannot take more and --journal-full is `refuse`: nothing is forwarded.")
        except RequestRejected as error:
            client.finish(error_message(error, close=True, head_only=shape.method == b"HEAD"), close=True)
            return None
        return Passage(client, request, shape, call, self._pool, self.passages, self._client_gone)

    def _new_call(self, client: ClientConnection, shape: Shape) -> Call | None:
        """Work out what requests of this shape become; None if the one at hand was answered here."""
        cors = self._gate.check(shape)
        target = shape.target if shape.target[:1] == b"/" else self._path_of_absolute(shape.target)
        if self._answered_here(client, shape, target, cors):
            return None
        if b"#" in target:
            raise MalformedRequest("A request target has no fragment (`#`).")
        route = self._route(shape.method, target)
        query = target.partition(b"?")[2]
        settlement = self._credentials.settle(shape.credentials, query, route)
        if settlement.fingerprint is None and route.needs_no_credential:
            owner = self._owners.owner(query)
            settlement = replace(settlement, fingerprint=owner, source="client" if owner else "none")
        upstream_target = self._around.origin.base_path + route.upstream_target
        if query_credential(query):
            path, _, query = upstream_target.partition(b"?")
            query = without_query_credentials(query, but_the_first=settlement.keep_query)
            upstream_target = path + b"?" + query if query else path
        recorded = self._redact_target(target).decode("latin-1")
        return Call(self._around, shape, route, upstream_target, recorded, settlement, cors)

    def _path_of_absolute(self, target: bytes) -> bytes:
        """The path of an absolute-form target (RFC 9112 section 3.2.2), whose authority must be ours too."""
        for scheme in (b"http://", b"https://"):
            if target[: len(scheme)].lower() == scheme:
                authority, slash, path = target[len(scheme) :].partition(b"/")
                authority, question, query = authority.partition(b"?")
                if not self._gate.host_allowed(authority):
                    break
                return b"/" + path if slash else b"/" + question + query
        raise MalformedRequest(
            "The request target must be a path. This is a reverse proxy: "
            "use its address as the base URL, not as HTTP_PROXY."
        )

    def _answered_here(self, client: ClientConnection, shape: Shape, target: bytes, cors: bytes) -> bool:
        if shape.preflight and shape.origin and shape.method == b"OPTIONS":
            client.finish(self._gate.preflight_answer(shape, cors))
        elif target == b"/healthz" and shape.method in (b"GET", b"HEAD"):
            client.finish(json_message(200, {"status": "live"}, head_only=shape.method == b"HEAD"))
        elif target == b"/readyz" and shape.method in (b"GET", b"HEAD"):
            ready, report = self._readiness()
            client.finish(json_message(200 if ready else 503, report, head_only=shape.method == b"HEAD"))
        else:
            return False
        return True
