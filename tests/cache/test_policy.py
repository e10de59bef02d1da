"""Modes, ages and endings, as tables."""

from __future__ import annotations

import pytest

from answered import settings
from gemini_caching_proxy.cache.policy import NOT_ZERO, Policy, age_seconds, asks_plainly
from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.exchange import EntryKind, Verdict
from gemini_caching_proxy.providers.base import CacheKind, CacheSubject, Endings
from gemini_caching_proxy.settings import CacheMode

HIT, STALE, MISS = Verdict.HIT, Verdict.STALE, Verdict.MISS


def policy(**over: object) -> Policy:
    return Policy.from_settings(settings(**over))


@pytest.mark.parametrize(
    ("operation", "model", "asked", "mode"),
    [
        ("generate_content", "gemini-2.5-pro", None, "all"),
        ("stream_generate_content", "gemini-2.5-pro", None, "all"),
        ("generate_content", "gemini-3-pro", None, "safe"),
        ("generate_content", None, None, "safe"),
        ("embed_content", "any", None, "off"),
        ("embed_content", "any", "replay", "replay"),
        ("count_tokens", "special", None, "replay"),
        ("count_tokens", "other", None, "safe"),
    ],
)
def test_modes_by_route(operation: str, model: str | None, asked: CacheMode | None, mode: str) -> None:
    routes = "generate_content:gemini-2.5-*=all, embed_*=off, count_tokens:special=replay, count_tokens:special=off"
    assert policy(cache_routes=routes).mode_for(operation, model, asked) == mode


def test_a_replaying_proxy_stays_one() -> None:
    replaying = policy(cache="replay", cache_routes="generate_content=all")
    assert {replaying.mode_for("generate_content", "m", asked) for asked in (None, "off", "all")} == {"replay"}


@pytest.mark.parametrize("routes", ["x", "=all", "generate_content=", "generate_content=on", ":m=all"])
def test_routes_that_cannot_be_read(routes: str) -> None:
    with pytest.raises(ConfigError, match="--cache-routes"):
        policy(cache_routes=routes)


@pytest.mark.parametrize("ttl", ["x", "x=", "x=5", "=5m", "x=-5m", "x=5 minutes", "x=5y"])
def test_ages_that_cannot_be_read(ttl: str) -> None:
    with pytest.raises(ConfigError, match="--cache-ttl"):
        policy(cache_ttl=ttl)


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("90s", 90), ("1.5h", 5400), ("2w", 1_209_600), ("m", None)])
def test_ages(text: str, seconds: float | None) -> None:
    assert age_seconds(text) == seconds


@pytest.mark.parametrize(
    ("operation", "kind", "seconds"),
    [
        ("generate_content", "generation", 60),
        ("stream_generate_content", "generation", 60),
        ("interactions", "generation", 3600),
        ("count_tokens", "tokens", 30 * 86_400),
        ("list_models", "listing", 300),
    ],
)
def test_lifetimes(operation: str, kind: CacheKind, seconds: float) -> None:
    assert policy(cache_ttl="generate_content=1m,generation=1h").ttl_s(operation, kind) == seconds


@pytest.mark.parametrize(
    ("mode", "deterministic", "depends_on", "dependent", "why"),
    [
        ("off", True, "", False, "the cache is off"),
        ("safe", True, "", False, ""),
        ("safe", False, "", False, NOT_ZERO),
        ("all", False, "", False, ""),
        ("all", True, "a file", False, "depends on a file"),
        ("all", True, "a file", True, ""),
        ("safe", False, "a file", True, NOT_ZERO),
        ("replay", False, "a file", False, ""),
    ],
)
def test_what_is_served(mode: CacheMode, deterministic: bool, depends_on: str, dependent: bool, why: str) -> None:
    subject = CacheSubject("o", "m", "generation", b"", deterministic=deterministic, depends_on=depends_on)
    assert policy(cache_dependent=dependent).why_not(mode, subject) == why


@pytest.mark.parametrize(
    ("status", "kind", "endings", "entry"),
    [
        (200, "generation", Endings(True, ("STOP",)), "answer"),
        (200, "generation", Endings(True, ("STOP", "MAX_TOKENS")), "answer"),
        (200, "generation", Endings(True, ("STOP", "SAFETY")), "error"),
        (200, "generation", Endings(True, ()), "error"),
        (200, "generation", Endings(False, ("STOP",)), None),
        (200, "generation", Endings(False, (), "overloaded"), "error"),
        (200, "tokens", Endings(True), "answer"),
        (200, "tokens", Endings(False), None),
        (429, "generation", Endings(False), "error"),
        (201, "generation", Endings(True, ("STOP",)), None),
        (206, "tokens", Endings(True), None),
        (302, "tokens", Endings(True), None),
    ],
)
def test_what_an_answer_is_worth(status: int, kind: CacheKind, endings: Endings, entry: EntryKind | None) -> None:
    assert Policy().entry_kind(status, kind, endings) == entry


@pytest.mark.parametrize(
    ("mode", "kind", "pinned", "age_s", "max_age_s", "verdict"),
    [
        ("all", "answer", False, 99.9, None, HIT),
        ("all", "answer", False, 100, None, STALE),
        ("all", "answer", True, 1e9, None, HIT),
        ("all", "answer", True, 11, 10, STALE),
        ("all", "answer", False, 9, 10, HIT),
        ("safe", "error", True, 0, None, MISS),
        ("replay", "error", False, 1e9, None, HIT),
        ("replay", "answer", False, 1e9, None, HIT),
        ("replay", "answer", False, 1e9, 0, HIT),
    ],
)
def test_verdicts(
    mode: CacheMode, kind: EntryKind, pinned: bool, age_s: float, max_age_s: int | None, verdict: Verdict
) -> None:
    assert Policy().verdict(mode, kind=kind, pinned=pinned, age_s=age_s, ttl_s=100, max_age_s=max_age_s) == verdict


def test_errors_are_replayed_if_that_is_wanted() -> None:
    strict = policy(cache_replay_errors=False)
    assert strict.verdict("replay", kind="error", pinned=False, age_s=0, ttl_s=9, max_age_s=None) == MISS


@pytest.mark.parametrize(
    ("method", "kind", "names", "plainly"),
    [
        ("POST", "generation", [b"Accept"], True),
        ("GET", "generation", [], False),
        ("GET", "listing", [], True),
        ("POST", "listing", [], False),
        ("HEAD", "listing", [], False),
        ("POST", "tokens", [b"X-HTTP-Method-Override"], False),
    ],
)
def test_what_is_asked_plainly(method: str, kind: CacheKind, names: list[bytes], plainly: bool) -> None:
    assert asks_plainly(method, kind, names) == plainly
