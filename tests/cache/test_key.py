"""Keys: equal for what asks for the same, different for everything that differs in one thing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from gemini_caching_proxy.cache.key import KEY_BYTES, SCHEME, cache_key, key_text
from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.base import CacheSubject
from gemini_caching_proxy.providers.gemini import GeminiProvider
from spelling import Binary, Speller, User, Whole

PROVIDER = GeminiProvider()
PAIRS = 200_000
WORDS = ["alpha", "beta", "Gamma", "δέλτα", "epsilon_zeta", "etaTheta", "0", "1", "data", "{}", "[]", "null"]

SUBJECT = CacheSubject("generate_content", "m", "generation", b"{}", "v")


def key(subject: CacheSubject = SUBJECT, **other: str) -> bytes:
    parts = {"provider": "gemini", "upstream": "https://a.test", "namespace": "n", "normalisers": ""} | other
    return cache_key(subject, **parts)


@dataclass(frozen=True)
class Call:
    """A request and all that its key is made of."""

    body: Any
    model: str = "gemini-2.5-flash"
    verb: str = "generateContent"
    place: str = ""
    query: str = ""
    headers: Headers = ()
    provider: str = "gemini"
    upstream: str = "https://a.test"
    namespace: str = "c-1"
    normalisers: str = ""

    @property
    def key(self) -> bytes:
        target = f"/v1beta/{self.place}models/{self.model}:{self.verb}{self.query}"
        route = PROVIDER.route(b"POST", target.encode())
        body = orjson.dumps(self.body)
        subject = PROVIDER.cache_subject(route.operation, route.model, target, self.headers, body)
        assert isinstance(subject, CacheSubject), subject
        return cache_key(
            subject,
            provider=self.provider,
            upstream=self.upstream,
            namespace=self.namespace,
            normalisers=self.normalisers,
        )


def a_request(rng: random.Random) -> dict[str, Any]:
    """A request of an agent, small."""

    def words() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))

    def data(depth: int = 2) -> dict[str, Any]:
        return {
            f"{rng.choice(WORDS)}{number}": data(depth - 1)
            if depth and rng.random() < 0.4
            else rng.choice([words(), rng.randint(-5, 5), rng.random(), True, None, [], {}, [words(), 1, 2.5]])
            for number in range(rng.randint(1, 3))
        }

    part: list[Callable[[], dict[str, Any]]] = [
        lambda: {"text": words()},
        lambda: {"text": words(), "thought": True},
        lambda: {"functionCall": {"id": words(), "name": words(), "args": data()}, "thoughtSignature": "AbCd1234"},
        lambda: {"functionResponse": {"id": words(), "name": words(), "response": data()}},
        lambda: {"inlineData": {"mimeType": "image/png", "data": "QUJDREVG"}},
    ]
    return {
        "contents": [
            {"role": rng.choice(["user", "model"]), "parts": [rng.choice(part)() for _ in range(rng.randint(1, 3))]}
            for _ in range(rng.randint(1, 4))
        ],
        "systemInstruction": {"parts": [{"text": words()}]},
        "tools": [
            {"functionDeclarations": [{"name": words(), "description": words(), "parametersJsonSchema": data()}]}
        ],
        "generationConfig": {
            "temperature": rng.random(),
            "topK": rng.randint(1, 50),
            "stopSequences": [words()],
            "responseSchema": {"type": "OBJECT", "properties": {words(): {"type": "STRING"}}, "required": [words()]},
            "thinkingConfig": {"thinkingBudget": rng.randint(1, 9), "includeThoughts": False},
        },
        "safetySettings": [{"category": words(), "threshold": words()}],
        "labels": {words(): words()},
    }


def places(value: Any, *, users: bool = False) -> Iterator[tuple[Any, Any, bool]]:
    """Every container with a key or index in it, and whether that is in what users put in."""
    for at, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, at, users
        if isinstance(item, dict | list):
            mine = at in ("args", "response", "parametersJsonSchema", "properties", "labels")
            yield from places(item, users=users or mine)


def changed(value: Any, rng: random.Random) -> Any:
    """Another value that is as like it as can be."""
    match value:
        case bool():
            return not value
        case None:
            return rng.choice([False, 0, "", "null", [], {}])
        case int():
            return rng.choice([value + 1, value - 1, value + 0.5, float(value) + 2**-20])
        case float():
            return rng.choice([value + 1, -value, value * 1.0001])
        case str():
            at = rng.randrange(len(value)) if value else 0
            letter = "Z" if value[at : at + 1] != "Z" else "Y"
            return rng.choice([value[:at] + letter + value[at + 1 :], value[:at] + letter + value[at:]])
        case list():
            return rng.choice([[*value, "x"], [*value, {}], ["", *value]])
        case dict():
            return {**value, "one_more": rng.choice([0, "", None, {}])}
    raise AssertionError(value)


def with_one_change(call: Call, rng: random.Random) -> Call:
    """The same call, different in one thing."""
    if rng.random() < 0.25:
        return rng.choice(OUTSIDE)(call, rng)
    body = orjson.loads(orjson.dumps(call.body))
    container, at, users = rng.choice(list(places(body)))
    if isinstance(container, dict) and users and rng.random() < 0.3:
        other = str(at) + rng.choice(["_", "x", " ", "\0"]) if rng.random() < 0.5 else str(at).swapcase() + "_"
        container[other] = container.pop(at)
    elif isinstance(container, list) and rng.random() < 0.3:
        container.insert(at, orjson.loads(orjson.dumps(container[at])))
    elif isinstance(container, dict) and rng.random() < 0.1 and (users or at not in MEANINGLESS):
        del container[at]
    else:
        container[at] = changed(container[at], rng)
    return replace(call, body=body)


MEANINGLESS = ("role",)
"""Absent is the same as `user`."""
PLACES = (
    "projects/p/locations/l/publishers/google/",
    "publishers/google/",
    "projects/q/locations/l/publishers/google/",
)
QUERIES = ("?fields=a", "?fields=b", "?$alt=json;enum-encoding=int", "?x=", "?X=")
OUTSIDE: list[Callable[[Call, random.Random], Call]] = [
    lambda call, rng: replace(call, model=call.model + rng.choice("abc-1")),
    lambda call, rng: replace(call, verb="countTokens"),
    lambda call, rng: replace(call, place=rng.choice(PLACES)),
    lambda call, rng: replace(call, query=rng.choice(QUERIES)),
    lambda call, rng: replace(call, headers=((b"x-goog-fieldmask", rng.choice([b"a", b"b"])),)),
    lambda call, rng: replace(call, provider=call.provider + "2"),
    lambda call, rng: replace(call, upstream=call.upstream + rng.choice(["/", ":8", "x"])),
    lambda call, rng: replace(call, namespace=rng.choice(["", "c-2", "c-10", "c-"])),
    lambda call, rng: replace(call, normalisers=rng.choice(["uuids", "pids", "own:1"])),
]  # fmt: skip


def differing_pairs(pairs: int, seed: int) -> None:
    rng = random.Random(seed)
    done = 0
    while done < pairs:
        call = Call(a_request(rng))
        first = call.key
        for _ in range(100):
            other = with_one_change(call, rng)
            assert other.key != first, (call, other)
        done += 100


def test_one_difference_is_another_key() -> None:
    differing_pairs(5_000, seed=1)


@pytest.mark.slow
def test_one_difference_in_two_hundred_thousand_pairs_is_another_key() -> None:
    differing_pairs(PAIRS, seed=2)


def test_other_spellings_are_the_same_key() -> None:
    tree = {
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "hé"}, {"inlineData": {"mimeType": "a/b", "data": Binary(b"\xff\xfe!")}}],
            },
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": User({"a_b": [1, {"cD": None}]})}}]},
        ],
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {"temperature": Whole(0), "maxOutputTokens": Whole(9, as_text=True)},
    }
    subjects = [
        PROVIDER.cache_subject("generate_content", "m", "/v1/models/m:generateContent", (), Speller(seed).request(tree))
        for seed in range(300)
    ]
    assert len({key(each) for each in subjects if isinstance(each, CacheSubject)}) == 1
    assert all(isinstance(each, CacheSubject) for each in subjects)


def test_where_one_part_ends_and_the_next_begins_is_in_the_key() -> None:
    keys = [
        key(replace(SUBJECT, operation="ab", model="c")),
        key(replace(SUBJECT, operation="a", model="bc")),
        key(replace(SUBJECT, operation="", model="abc")),
        key(replace(SUBJECT, model="", variant="m")),
        key(replace(SUBJECT, model="m", variant="")),
        key(replace(SUBJECT, body=b"{}n"), namespace=""),
        key(replace(SUBJECT, body=b"{}"), namespace="n"),
        key(namespace="", normalisers="n"),
        key(namespace="n", normalisers=""),
        key(provider="geminihttps:", upstream="//a.test"),
        key(provider="gemini", upstream="https://a.test", namespace=""),
        key(replace(SUBJECT, body=b"{}\0")),
        key(replace(SUBJECT, body=b"")),
    ]
    # Two of them are the same call twice.
    assert len(set(keys)) == len(keys) - 1


def test_how_an_answer_is_wanted_is_not_in_the_key() -> None:
    assert key(replace(SUBJECT, shape="sse", deterministic=False, depends_on="a file")) == key()


def test_keys_hold_any_text() -> None:
    assert key(replace(SUBJECT, model="\ud800")) != key(replace(SUBJECT, model="\ud801"))


def test_a_key_is_stable_and_readable() -> None:
    assert len(key()) == KEY_BYTES
    assert key_text(key()).startswith(f"{SCHEME}:")
    assert key_text(bytes(16)) == "k1:" + "00" * 16
    assert key() == key()
