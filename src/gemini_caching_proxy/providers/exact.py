"""JSON in and out without losing anything a cache key must see, and with one spelling for each number.

What orjson reads is exact but for three things: a key that stands twice, whole numbers beyond 64 bits, and how large
floats were written. All three are noticed; the rare body that has one is read again, slowly, or refused.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

EXACT_FLOAT: Final = 2.0**53
"""From here on different decimal numbers become the same float."""
_ESCAPED_QUOTE: Final = b"\\u0022"


class Refusal(Exception):
    """A body that no key can be made of; its text says why, in a few words."""


class _Inexact(Exception):
    """A number may have lost digits."""


def read_exact(body: bytes) -> Any:
    """A JSON body as Python values.

    Whole numbers are `int` however they were written (`1.0`, `1e0`), minus zero is 0; the others are `float`.

    Raises:
        Refusal: not JSON (lone surrogates, NaN and bad UTF-8 included), duplicate keys, nested too deeply.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal("not JSON") from None
    if _ESCAPED_QUOTE in body:
        return _read_slowly(body)
    try:
        again = orjson.dumps(value)
    except TypeError:
        raise Refusal("nested too deeply") from None
    # A key that stands twice loses a string, and with it two quotes; nothing else can make up for them.
    if again.count(b'"') != body.count(b'"'):
        raise Refusal("duplicate keys")
    try:
        return _settled(value)
    except _Inexact:
        return _read_slowly(body)


def write_exact(value: Any) -> bytes:
    """Canonical JSON of what `read_exact` gave: UTF-8, keys sorted, no spaces. Different values, different bytes.

    Raises:
        Refusal: nested too deeply.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Whole numbers beyond 64 bits.
        pass
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        raise Refusal("nested too deeply") from None


def _settled(value: Any) -> Any:
    """The value with its floats settled, containers in place."""
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(item) in _LOOKED_INTO:
                value[key] = _settled(item)
    elif kind is list:
        for index, item in enumerate(value):
            if type(item) in _LOOKED_INTO:
                value[index] = _settled(item)
    elif kind is float and value.is_integer():
        if not -EXACT_FLOAT < value < EXACT_FLOAT:
            raise _Inexact
        return int(value)
    return value


_LOOKED_INTO: Final = frozenset((dict, list, float))


def _read_slowly(body: bytes) -> Any:
    """Read what orjson could read, digit by digit and key by key."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_float=_number)
    except RecursionError:
        raise Refusal("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Refusal("duplicate keys")
    return result


def _number(text: str) -> float | int:
    value = float(text)
    if not value.is_integer():
        return value
    if -EXACT_FLOAT < value < EXACT_FLOAT:
        return int(value)
    return _large_number(text)


def _large_number(text: str) -> int:
    """A number of 2**53 or more, from the digits as they were written."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    zeros = int(exponent or "0") - len(fraction)
    if zeros < 0:
        raise Refusal("a number with too many digits")
    scale: int = 10**zeros
    return int(whole + fraction) * scale
