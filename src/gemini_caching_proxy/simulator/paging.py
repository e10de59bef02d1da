"""`pageSize`, `pageToken`, `nextPageToken`: one way of paging for all collections."""

from __future__ import annotations

import base64
from typing import Any

from .backend import Request
from .problems import invalid_argument

DEFAULT_SIZE = 50


def page_of(request: Request, key: str, resources: list[Any]) -> dict[str, Any]:
    """The asked-for page under `key`; an empty collection is an empty object, as in the API.

    Raises:
        ApiProblem: 400 for a size or token that is none.
    """
    size_text = request.query.get("pageSize") or request.query.get("page_size") or str(DEFAULT_SIZE)
    if not size_text.isdigit():
        raise invalid_argument(f"Invalid page size: {size_text}")
    size = min(int(size_text) or DEFAULT_SIZE, 1000)
    start = _start(request.query.get("pageToken") or request.query.get("page_token"))
    page = resources[start : start + size]
    answer: dict[str, Any] = {key: page} if page else {}
    if start + size < len(resources):
        answer["nextPageToken"] = base64.urlsafe_b64encode(str(start + size).encode()).decode()
    return answer


def _start(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token))
    except ValueError:
        raise invalid_argument("The page token is invalid.") from None
