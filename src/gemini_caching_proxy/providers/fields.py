"""Reading fields of JSON values whose shape nobody vouches for."""

from __future__ import annotations

import json
from typing import Any

import orjson


def pick(value: Any, *names: str) -> Any:
    """The first of these fields that an object has and that is not null; None for anything else."""
    if isinstance(value, dict):
        for name in names:
            if (found := value.get(name)) is not None:
                return found
    return None


def pick_text(value: Any, *names: str) -> str:
    """A field if it is a string, else empty."""
    found = pick(value, *names)
    return found if isinstance(found, str) else ""


def pick_list(value: Any, *names: str) -> list[Any]:
    found = pick(value, *names)
    return found if isinstance(found, list) else []


def pick_count(value: Any, *names: str) -> int | None:
    """A field that counts something; proto JSON writes 64-bit numbers as strings."""
    found = pick(value, *names)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 19:
        return int(found)
    if isinstance(found, float) and found.is_integer() and found < 2**53:
        found = int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63 else None


def as_json(value: Any) -> str:
    """Compact JSON of a value that was read from JSON; what orjson cannot write (lone surrogates) is escaped."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        pass
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return "(nested too deeply)"
