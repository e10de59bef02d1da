"""The yardstick from below: the relay one writes in ten minutes with FastAPI and httpx. It records nothing.

`NAIVE_UPSTREAM` is the base URL. It opens an `AsyncClient` per call, as the first examples of both libraries do; with
`NAIVE_POOLED=1` it keeps one for all calls, which is what a second look at the documentation gives.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host"})
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def passing(headers: httpx.Headers | dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


async def _nothing() -> None:
    return None


def build() -> FastAPI:
    """The application; uvicorn calls this with `--factory`."""
    app = FastAPI(openapi_url=None)
    upstream = os.environ["NAIVE_UPSTREAM"]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    shared = httpx.AsyncClient(timeout=None, limits=limits) if os.environ.get("NAIVE_POOLED") == "1" else None

    @app.api_route("/{path:path}", methods=METHODS)
    async def relay(request: Request) -> StreamingResponse:
        client = shared or httpx.AsyncClient(timeout=None)
        finish: Callable[[], Awaitable[None]] = client.aclose if shared is None else _nothing
        outgoing = client.build_request(
            request.method,
            f"{upstream}{request.url.path}?{request.url.query}",
            headers=passing(dict(request.headers)),
            content=await request.body(),
        )
        answer = await client.send(outgoing, stream=True)
        return StreamingResponse(
            answer.aiter_raw(),
            status_code=answer.status_code,
            headers=passing(answer.headers),
            background=BackgroundTask(finish),
        )

    return app
