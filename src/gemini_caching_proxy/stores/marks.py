"""Marks: keys under which an exchange is found again by what a later request repeats of it."""

from __future__ import annotations

from blake3 import blake3

from .facets import clean


def chain_mark(tip: bytes, scope: str) -> bytes:
    """Key of a chain's end within a scope."""
    return blake3(b"chain\0" + clean(scope).encode() + b"\0" + tip).digest(length=16)


def response_mark(response_id: str) -> bytes:
    """Key of an answer's id."""
    return blake3(b"response\0" + clean(response_id).encode()).digest(length=16)
