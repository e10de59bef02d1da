"""Gemini: the API's own dialect, Interactions, and the OpenAI dialect it speaks on a path of its own."""

from __future__ import annotations

from gemini_caching_proxy.exchange import Headers, StreamShape
from gemini_caching_proxy.providers.base import (
    CacheKind,
    CacheSubject,
    Decoded,
    Endings,
    Normalise,
    Provider,
    Rendering,
    Route,
)

from .endings import endings
from .exchanges import decode
from .rendering import render
from .reshaping import reshape
from .routing import NAME, route
from .subject import cache_kind, cache_subject, may_be_deterministic

__all__ = ["GeminiProvider"]


class GeminiProvider:
    """What Gemini clients call, and what the bodies say."""

    name = NAME

    def route(self, method: bytes, target: bytes) -> Route:
        return route(method, target)

    def decode(
        self,
        route_operation: str,
        request_body: bytes,
        status: int | None,
        response_headers: Headers,
        response_body: bytes,
    ) -> Decoded:
        return decode(route_operation, request_body, status, response_headers, response_body)

    def render(self, operation: str, request_body: bytes, response_headers: Headers, response_body: bytes) -> Rendering:
        return render(operation, request_body, response_headers, response_body)

    def cache_kind(self, operation: str) -> CacheKind | None:
        return cache_kind(operation)

    def may_be_deterministic(self, operation: str, body: bytes) -> bool:
        return may_be_deterministic(operation, body)

    def cache_subject(
        self,
        operation: str,
        model: str | None,
        target: str,
        headers: Headers,
        body: bytes,
        normalise: Normalise | None = None,
    ) -> CacheSubject | str:
        return cache_subject(operation, model, target, headers, body, normalise)

    def reshape(self, operation: str, body: bytes, have: StreamShape, want: StreamShape) -> tuple[bytes, ...] | None:
        return reshape(operation, body, have, want)

    def endings(self, operation: str, headers: Headers, body: bytes) -> Endings:
        return endings(operation, headers, body)


_: type[Provider] = GeminiProvider
