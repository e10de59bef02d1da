"""Providers: what a dialect of LLM API means. `base` has the contract; `providers` gives the ones there are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from .base import Provider
from .gemini import GeminiProvider

__all__ = ["providers"]


@cache
def providers() -> Mapping[str, Provider]:
    """Every provider by its name."""
    gemini = GeminiProvider()
    return {gemini.name: gemini}
