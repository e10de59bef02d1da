"""Takes every request that was read: refuses it, answers it here, or sends it on its passage.

Answered here: `/healthz`, `/readyz` and CORS preflights. All else belongs to the upstream, known path or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from .call import Call, Plan, Surroundings
from .credentials import Credentials, UploadOwners, query_credential, without_query_credentials
from .errors import MalformedRequest, Overloaded, RequestRejected
from .proxy import Passage
from .providers.base import Route
from .relay.downstream import ClientConnection
from .relay.gate import Gate
from .relay.http1 import Request, error_message, json_message
from .relay.upstream import Pool

_MOST_PLANS = 4096

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
        refuses: Callable[[], bool],
        client_gone: Literal["cancel", "drain"],
    ) -> None:
        """`readiness` tells whether the worker can do its job and why; `refuses` whether to take no requests for now."""
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
        self._plans: dict[tuple[bytes, bytes], Plan] = {}
        self.passages: set[Passage] = set()

    def start(self, client: ClientConnection, request: Request) -> Passage | None:
        """Begin with a request whose head is read; None if it was answered here."""
        try:
            cors = self._gate.check(request)
            if request.target[:1] != b"/":
                request.target = self._path_of_absolute(request.target)
            if self._answered_here(client, request, cors):
                return None
            if self._refuses():
                raise Overloaded("The journal cannot take more and --journal-full is `refuse`: nothing is forwarded.")
            plan = self._plan(request)
        except RequestRejected as error:
            client.finish(error_message(error, close=True, head_only=request.method == b"HEAD"), close=True)
            return None
        settlement = self._credentials.settle(request.credentials, plan.query, plan.route)
        if not settlement.keep_query and plan.query and query_credential(plan.query):
            plan = self._without_query_credential(plan)
        if settlement.fingerprint is None and plan.route.needs_no_credential:
            owner = self._owners.owner(plan.query)
            settlement = replace(settlement, fingerprint=owner, source="client" if owner else "none")
        call = Call(self._around, client, request, plan, settlement, cors)
        return Passage(client, request, call, self._pool, self.passages, self._client_gone)

    def _plan(self, request: Request) -> Plan:
        key = (request.method, request.target)
        plan = self._plans.get(key)
        if plan is None:
            route = self._route(*key)
            if b"#" in request.target:
                raise MalformedRequest("A request target has no fragment (`#`).")
            query = request.target.partition(b"?")[2]
            plan = Plan(
                route,
                self._around.origin.base_path + route.upstream_target,
                query,
                self._redact_target(request.target).decode("latin-1"),
            )
            if len(request.target) <= 1024:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def _without_query_credential(self, plan: Plan) -> Plan:
        path = plan.upstream_target.partition(b"?")[0]
        query = without_query_credentials(plan.query)
        return Plan(plan.route, path + b"?" + query if query else path, query, plan.recorded_target)

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
            "The request target must be a path. This is a reverse proxy: use its address as the base URL, not as HTTP_PROXY."
        )

    def _answered_here(self, client: ClientConnection, request: Request, cors: bytes) -> bool:
        if request.preflight and request.origin and request.method == b"OPTIONS":
            client.finish(self._gate.preflight_answer(request, cors))
        elif request.target == b"/healthz" and request.method == b"GET":
            client.finish(json_message(200, {"status": "live"}))
        elif request.target == b"/readyz" and request.method == b"GET":
            ready, report = self._readiness()
            client.finish(json_message(200 if ready else 503, report))
        else:
            return False
        return True
