"""Gemini: the API's own dialect, Interactions, and the OpenAI dialect it speaks on a path of its own."""

from __future__ import annotations

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.base import Decoded, Provider, Rendering, Route

from .exchanges import decode
from .rendering import render
from .routing import NAME, route

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


_: type[Provider] = GeminiProvider
