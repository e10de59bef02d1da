"""What a request asks for: one subject for all spellings of it, another for everything that asks for something else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.providers.base import CacheSubject
from gemini_caching_proxy.providers.gemini import GeminiProvider
from spelling import Binary, Speller, User, Whole

from .recorded import FOLDER, needs_traffic

PROVIDER = GeminiProvider()
GENERATE = "/v1beta/models/m:generateContent"


def ask(body: Any, target: str = GENERATE, headers: Headers = (), method: bytes = b"POST") -> CacheSubject | str:
    route = PROVIDER.route(method, target.encode())
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    return PROVIDER.cache_subject(route.operation, route.model, target, headers, data)


def subject(body: Any, target: str = GENERATE, headers: Headers = (), method: bytes = b"POST") -> CacheSubject:
    found = ask(body, target, headers, method)
    assert isinstance(found, CacheSubject), found
    return found


def asked(body: Any, target: str = GENERATE) -> Any:
    return json.loads(subject(body, target).body)


def hello(**more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **more}


# --- the requests of real clients ---


def sent_by(client: str, number: int) -> CacheSubject | str:
    raw = (FOLDER / f"clients/{client}/{number:03}.http").read_bytes().replace(b"\r\n", b"\n")
    head, _, body = raw.partition(b"\n\n")
    line, *fields = head.split(b"\n")
    method, target = line.split()[:2]
    headers = tuple((name.strip(), value.strip()) for name, _, value in (field.partition(b":") for field in fields))
    route = PROVIDER.route(method, target)
    return PROVIDER.cache_subject(route.operation, route.model, target.decode(), headers, body.rstrip(b"\n"))


SAME = {
    "hi": [
        *[("js-aisdk-langchain", number) for number in (1, 2, 3)],
        ("js-aisdk-v7", 1),
        *[(client, number) for client in ("js-google-genai", "js-google-genai-3.1") for number in (2, 10)],
        *[(client, number) for client in ("litellm", "litellm-1.106") for number in (1, 2, 3, 4, 5)],
        *[(client, number) for client in ("py-google-genai", "py-google-genai-3.4") for number in (1, 7, 8, 12, 14)],
    ],
    "hi, on Vertex by key": [("js-bytes-vertex", 2), ("py-vertex-and-bytes", 1)],
    "hi, on Vertex in a project": [("py-vertex-and-bytes", 2), ("py-vertex-and-bytes", 3)],
    "hi, with integer enums": [("py-legacy-generativeai", 1), ("py-legacy-generativeai", 2)],
    "hi, without thoughts": [("js-google-genai", 1), ("js-google-genai-3.1", 1)],
    "hi, warmer": [("langchain-google-genai", number) for number in (1, 2, 3, 4)],
    "hi, with search": [("py-google-genai", 2), ("py-google-genai-3.4", 2)],
    "hi, safety off": [("llm-gemini", 1)],
    "hi, counted": [
        *[("js-google-genai", 4), ("js-google-genai-3.1", 4), ("py-google-genai", 3), ("py-google-genai-3.4", 3)],
    ],
    "hi, counted with integer enums": [("py-legacy-generativeai", 3)],
    "a picture": [("js-bytes-vertex", 1)],
    "a picture and a function": [("py-vertex-and-bytes", 4)],
    "hi, with a function": [("py-vertex-and-bytes", 5)],
    "x, embedded": [("js-aisdk-v7", 2)],
    "a and b, embedded": [
        *[("js-google-genai", 3), ("js-google-genai-3.1", 3), ("py-google-genai", 4), ("py-google-genai-3.4", 4)],
    ],
    "a, embedded in a batch": [("litellm", 6), ("litellm-1.106", 6)],
    "x, embedded in a batch": [("llm-gemini", 2)],
    "x, embedded for a query": [("langchain-google-genai", 5)],
    "models of v1beta": [("js-google-genai", 5), ("py-google-genai", 5)],
    "models of v1": [("js-google-genai-3.1", 5), ("py-google-genai-3.4", 5)],
    "OpenAI": [("openai-python", 1)],
    "OpenAI, streamed with thoughts": [("openai-python", 2)],
    "OpenAI, models": [("openai-python", 3)],
    "OpenAI, embedded": [("openai-python", 4)],
}
"""Which requests of `clients/` ask for the same; those of different groups do not."""


def essence(found: CacheSubject | str) -> CacheSubject:
    assert isinstance(found, CacheSubject), found
    return replace(found, shape="unary")


@needs_traffic
def test_the_same_asked_by_different_clients_is_one_subject() -> None:
    groups = {name: {essence(sent_by(*request)) for request in requests} for name, requests in SAME.items()}
    assert {name: len(found) for name, found in groups.items()} == dict.fromkeys(SAME, 1)
    assert len(set().union(*groups.values())) == len(SAME)


@needs_traffic
def test_each_client_is_told_its_shape() -> None:
    shapes = [sent_by(*request) for request in [("py-google-genai", 1), ("py-google-genai", 8), ("llm-gemini", 1)]]
    assert [found.shape for found in shapes if isinstance(found, CacheSubject)] == ["unary", "sse", "json_array"]


@needs_traffic
@pytest.mark.parametrize("client", ["js-google-genai", "py-google-genai", "py-google-genai-3.4"])
def test_python_and_javascript_send_the_same_bytes(client: str) -> None:
    """URL-safe base64 with snake case in one, the standard alphabet and camel case in the other."""
    python, script = essence(sent_by("py-vertex-and-bytes", 4)), essence(sent_by("js-bytes-vertex", 1))
    bodies = [json.loads(found.body) for found in (python, script)]
    assert bodies[0]["contents"] == bodies[1]["contents"]


# --- one request in many spellings ---

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(["mime_type", "mimeType", "a_b", "aB", "file_data", "data", "text", "parts", "items", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT | st.floats(-1e6, 1e6).filter(lambda f: f % 1 != 0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3).map(User)
BYTES = st.binary(min_size=1, max_size=12).map(Binary)
SCHEMA: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {"type": st.just("STRING")}, optional={"maxItems": st.integers(0, 9).map(lambda n: Whole(n, as_text=True))}
    ),
    lambda inner: st.fixed_dictionaries({"type": st.just("OBJECT"), "anyOf": st.lists(inner, min_size=1, max_size=2)}),
    max_leaves=3,
)  # fmt: skip
CALL = st.fixed_dictionaries({"name": TEXT, "args": OBJECTS}, optional={"id": TEXT})
RESULT = st.fixed_dictionaries({"name": TEXT, "response": OBJECTS}, optional={"id": TEXT})
PARTS = st.one_of(
    st.fixed_dictionaries({"text": TEXT}, optional={"thought": st.booleans(), "thoughtSignature": BYTES}),
    st.fixed_dictionaries({"inlineData": st.fixed_dictionaries({"mimeType": TEXT, "data": BYTES})}),
    st.fixed_dictionaries({"functionCall": CALL}, optional={"thoughtSignature": BYTES}),
    st.fixed_dictionaries({"functionResponse": RESULT}),
)
CONTENTS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "model"]), "parts": st.lists(PARTS, min_size=1, max_size=3)}
)
FUNCTIONS = st.fixed_dictionaries(
    {"name": TEXT}, optional={"description": TEXT, "parametersJsonSchema": OBJECTS, "parameters": SCHEMA}
)
COUNTS = st.integers(0, 1000).map(lambda number: Whole(number, as_text=True))
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.integers(0, 2).map(Whole),
        "topK": COUNTS,
        "maxOutputTokens": COUNTS,
        "stopSequences": st.lists(TEXT, min_size=1, max_size=2),
        "responseSchema": SCHEMA,
        "responseJsonSchema": OBJECTS,
        "thinkingConfig": st.fixed_dictionaries({"thinkingBudget": COUNTS}),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"contents": st.lists(CONTENTS, min_size=1, max_size=3)},
    optional={
        "systemInstruction": st.fixed_dictionaries(
            {"parts": st.lists(st.fixed_dictionaries({"text": TEXT}), min_size=1, max_size=2)}
        ),
        "tools": st.lists(
            st.fixed_dictionaries({"functionDeclarations": st.lists(FUNCTIONS, min_size=1, max_size=2)}),
            min_size=1,
            max_size=1,
        ),
        "generationConfig": CONFIG,
        "safetySettings": st.lists(
            st.fixed_dictionaries({"category": TEXT, "threshold": TEXT}), min_size=1, max_size=2
        ),
        "labels": st.dictionaries(NAMES, TEXT, min_size=1, max_size=2).map(User),
    },
)


@settings(max_examples=150, deadline=None)
@given(tree=REQUESTS, first=st.integers(0, 2**32), second=st.integers(0, 2**32))
def test_spellings_of_a_request_are_one_subject(tree: dict[str, Any], first: int, second: int) -> None:
    one, other = (Speller(seed).request(tree) for seed in (first, second))
    assert subject(one) == subject(other)


@settings(max_examples=100, deadline=None)
@given(tree=REQUESTS, seed=st.integers(0, 2**32))
def test_a_temperature_of_0_is_never_overlooked(tree: dict[str, Any], seed: int) -> None:
    body = Speller(seed).request(tree)
    if subject(body).deterministic:
        # A key that is written with escapes may be missed.
        assert PROVIDER.may_be_deterministic("generate_content", body) or b"\\u" in body


CALLED = [
    ("contents", lambda user: [{"parts": [{"functionCall": {"name": "f", "args": user}}]}]),
    ("contents", lambda user: [{"parts": [{"functionResponse": {"name": "f", "response": user}}]}]),
    ("contents", lambda user: [{"parts": [{"functionCall": {"name": "f", "partialArgs": [user]}}]}]),
    ("tools", lambda user: [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": user}]}]),
    ("tools", lambda user: [{"function_declarations": [{"name": "f", "parameters_json_schema": user}]}]),
    ("tools", lambda user: [{"functionDeclarations": [{"name": "f", "responseJsonSchema": user}]}]),
    ("tools", lambda user: [{"functionDeclarations": [{"name": "f", "parameters": {"properties": user}}]}]),
    ("tools", lambda user: [{"mcpServers": [user]}]),
    ("tools", lambda user: [{"computerUse": user}]),
    ("generationConfig", lambda user: {"responseJsonSchema": user}),
    ("generationConfig", lambda user: {"responseSchema": {"properties": user}}),
    ("generationConfig", lambda user: {"responseSchema": {"default": user}}),
    ("generationConfig", lambda user: {"responseSchema": {"items": {"example": user}}}),
    ("labels", lambda user: user),
    ("unknownThing", lambda user: user),
]


@pytest.mark.parametrize(("name", "around"), CALLED)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"mime_type": {}}, {"mimeType": {}}),
        ({"a": {"thinking_budget": 1}}, {"a": {"thinkingBudget": 1}}),
        ({"a": {"data": "a-b_"}}, {"a": {"data": "a+b/"}}),
        ({"a": {"data": "AA=="}}, {"a": {"data": "AA"}}),
        ({"a": {}}, {}),
        ({"a": {"stopSequences": []}}, {"a": {}}),
        ({"a": {"x": None}}, {"a": {}}),
        ({"a": {"default": "7"}}, {"a": {"default": 7}}),
        ({"a": {"enum": [1, 2]}}, {"a": {"enum": [2, 1]}}),
        ({"a": {"enum": [True]}}, {"a": {"enum": [1]}}),
        ({"a": {"enum": [2**53]}}, {"a": {"enum": [2**53 + 1]}}),
        ({"a": {"enum": [2**64]}}, {"a": {"enum": [2**64 + 1]}}),
    ],
)
def test_what_users_put_in_stays_as_it_is(name: str, around: Any, one: Any, other: Any) -> None:
    assert subject(hello(**{name: around(one)})).body != subject(hello(**{name: around(other)})).body


# --- details of the API ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (hello(), {"contents": {"parts": {"text": "hi"}}}),
        (hello(model="models/m"), hello()),
        (hello(model="m"), hello()),
        (hello(systemInstruction={"role": "system", "parts": [{"text": "s"}]}), hello(system_instruction="s")),
        (hello(generationConfig={"stopSequences": []}, toolConfig={}), hello(safetySettings=[], cached_content=None)),
        (hello(generationConfig={"seed": "7"}), hello(generationConfig={"seed": 7.0})),
        (hello(tools=[{"googleSearch": {}, "codeExecution": None}]), hello(tools=[{"google_search": {}}])),
    ],
)
def test_forms_that_mean_the_same(one: Any, other: Any) -> None:
    assert subject(one) == subject(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (hello(), {"contents": [{"role": "model", "parts": [{"text": "hi"}]}]}),
        (hello(), {"contents": [{"parts": [{"text": "hi"}, {"text": ""}]}]}),
        (hello(), {"contents": [{"parts": [{"text": "hi"}, {}]}]}),
        (hello(), {"contents": [{"parts": [{"text": "hi"}]}, {"parts": []}]}),
        (hello(), hello(model="models/n")),
        (hello(), hello(generationConfig={"thinkingConfig": {}})),
        (hello(), hello(systemInstruction={})),
        (hello(), hello(labels={})),
        (hello(serviceTier="flex"), hello()),
        (hello(tools=[{}]), hello()),
        (hello(tools=[{"googleSearch": {}}]), hello(tools=[{"urlContext": {}}])),
        (hello(generationConfig={"temperature": 0.1}), hello(generationConfig={"temperature": 0.10000000000000002})),
        (hello(generationConfig={"seed": "07"}), hello(generationConfig={"seed": 7})),
        (hello(generationConfig={"seed": True}), hello(generationConfig={"seed": 1})),
        (hello(generationConfig={"stopSequences": ["a", "b"]}), hello(generationConfig={"stopSequences": ["b", "a"]})),
        (
            {"contents": [{"parts": [{"inlineData": {"data": "AAA="}}]}]},
            {"contents": [{"parts": [{"inlineData": {"data": "AAA=="}}]}]},
        ),
        ({"contents": [{"parts": [{"text": "é"}]}]}, {"contents": [{"parts": [{"text": "e\u0301"}]}]}),
        ({"contents": [{"parts": [{"text": "a-b"}]}]}, {"contents": [{"parts": [{"text": "a+b"}]}]}),
    ],
)
def test_forms_that_may_mean_something_else(one: Any, other: Any) -> None:
    assert subject(one).body != subject(other).body


def test_the_canonical_form_is_sorted_camel_case() -> None:
    body = b'{ "generation_config" : {"top_k":"40","temperature":-0.0}, "contents":[{"parts":[{"text":"\\u00e9"}]}]}'
    assert subject(body).body.decode() == (
        '{"contents":[{"parts":[{"text":"é"}],"role":"user"}],"generationConfig":{"temperature":0,"topK":40}}'
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"contents":[{"parts":[{"text":"\\ud800"}]}]}', "not JSON"),
        (b'{"contents":[{"parts":[{"text":"\xff"}]}]}', "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":1e400}', "not JSON"),
        (b'{"a":1,"a":1}', "duplicate keys"),
        (b'{"contents":[{"parts":[{"functionCall":{"args":{"x":1,"y":{"b":[],"b":[]}}}}]}]}', "duplicate keys"),
        (b'{"a":"\\u0022\\u0022","b":1,"b":2}', "duplicate keys"),
        (b'{"a":"\\"","\\u0061":1}', "duplicate keys"),
        (b'{"system_instruction":"a","systemInstruction":"a"}', "duplicate keys"),
        (b'{"labels":{"a":1,"a":2}}', "duplicate keys"),
        (b'{"a":9007199254740993.5}', "a number with too many digits"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b'{"a":"\\u0022","b":' + b"[" * 1000 + b"]" * 1000 + b"}", "nested too deeply"),
    ],
)
def test_what_no_key_can_be_made_of(body: bytes, why: str) -> None:
    assert ask(body) == why


def test_large_numbers_keep_their_digits() -> None:
    numbers = ["9007199254740992.0", "9007199254740993.0", "9007199254740993", "18446744073709551616"]
    numbers += ["18446744073709551617", "1.8446744073709551618e19", "1e300"]
    bodies = [subject(b'{"labels":{"n":%s}}' % number.encode()).body for number in numbers]
    assert len(set(bodies)) == len(numbers) - 1
    assert bodies[1] == bodies[2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (GENERATE, "/v1/models/m:generateContent"),
        (GENERATE, "/team-a/v1beta/v1/models/models/m:generateContent?key=k"),
        (GENERATE, "//models/m%3AgenerateContent?prettyPrint=false&$alt=json"),
        (GENERATE + "?%24alt=json%3Benum-encoding%3Dint", GENERATE + "?$alt=json;enum-encoding=int"),
        (GENERATE + "?a=1&b=2", GENERATE + "?b=2&key=x&a=1"),
    ],
)
def test_targets_that_mean_the_same(one: str, other: str) -> None:
    assert subject(hello(), one) == subject(hello(), other)


TARGETS = [
    GENERATE,
    GENERATE + "?$alt=json;enum-encoding=int",
    GENERATE + "?fields=candidates",
    GENERATE + "?fields=usageMetadata",
    GENERATE + "?alt=proto",
    GENERATE + "?alt=sse",
    "/v1beta/models/n:generateContent",
    "/v1beta/tunedModels/m:generateContent",
    "/v1beta/models/m:countTokens",
    "/v1beta/models/m:embedContent",
    "/v1beta1/publishers/google/models/m:generateContent",
    "/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent",
    "/v1beta1/projects/q/locations/l/publishers/google/models/m:generateContent",
    "/v1beta1/projects/p/locations/k/publishers/google/models/m:generateContent",
    "/v1/projects/p/locations/l/endpoints/1:generateContent",
    "/v1/projects/p/locations/l/endpoints/2:generateContent",
]


def test_targets_that_ask_for_something_else() -> None:
    masked = subject(hello(), headers=((b"X-Goog-FieldMask", b"candidates"),))
    found = {(each.operation, each.model, each.variant) for each in [masked, *(subject(hello(), at) for at in TARGETS)]}
    assert len(found) == len(TARGETS) + 1


def test_listings_are_of_a_version_and_a_page() -> None:
    targets = ["/v1beta/models", "/v1/models", "/v1beta/models?pageSize=5", "/v1beta/models?pageSize=5&pageToken=x"]
    targets += ["/v1beta/models/m", "/v1beta/tunedModels/m", "/v1beta/openai/models", "/v1beta/openai/models/m"]
    found = [ask(None, target, method=b"GET") for target in targets]
    listings = [each for each in found if isinstance(each, CacheSubject)]
    assert len({(each.operation, each.model, each.variant) for each in listings}) == len(targets) - 1
    assert found[5] == "the operation is never cached"
    assert {(each.kind, each.deterministic, each.body) for each in listings} == {("listing", True, b"")}
    assert ask({}, "/v1beta/models", method=b"GET") == "a listing with a body"


def test_counting_with_and_without_its_envelope() -> None:
    target = "/v1beta/models/m:countTokens"
    plain = subject(hello(), target)
    assert subject({"generateContentRequest": hello(model="models/m", generationConfig={})}, target) == plain
    assert subject({"generateContentRequest": hello(tools=[{"googleSearch": {}}])}, target) != plain
    assert subject({"generateContentRequest": hello(model="models/n")}, target) != plain
    assert (plain.kind, plain.deterministic) == ("tokens", True)


def test_embeddings() -> None:
    one = subject({"model": "models/m", "content": {"parts": [{"text": "a"}]}}, "/v1/models/m:embedContent")
    assert (one.kind, one.deterministic, json.loads(one.body)) == (
        "embedding", True, {"content": {"role": "user", "parts": [{"text": "a"}]}},
    )  # fmt: skip
    batch = {"requests": [{"model": "models/m", "content": {"parts": [{"text": "a"}]}, "output_dimensionality": 8.0}]}
    assert asked(batch, "/v1/models/m:batchEmbedContents") == {
        "requests": [{"content": {"role": "user", "parts": [{"text": "a"}]}, "outputDimensionality": 8}]
    }


def test_code_assist_has_its_request_in_an_envelope() -> None:
    def sent(prompt: str, project: str = "p", model: str = "g") -> dict[str, Any]:
        inner = {**hello(generationConfig={"temperature": 0}), "session_id": prompt}
        return {"model": model, "project": project, "user_prompt_id": prompt, "request": inner}

    target = "/v1internal:streamGenerateContent?alt=sse"
    found = subject(sent("1"), target)
    assert (found.operation, found.model, found.shape, found.deterministic) == ("generate_content", "g", "sse", True)
    assert found == subject(sent("2"), target)
    assert found != subject(sent("1", project="q"), target)
    assert found.model != subject(sent("1", model="h"), target).model
    assert found.variant != subject(hello()).variant


# --- determinism and what answers depend on ---


@pytest.mark.parametrize(
    "zero", ["0", "0.0", "0e0", "-0.0", "0.000E+7", '"0"', "0e-5", "1e-400", "0." + "0" * 400 + "1"]
)
@pytest.mark.parametrize("key", ["temperature", "\\u0074emperature", "temperatur\\u0065", "temp\\u0065rature"])
def test_temperature_0_in_any_spelling(zero: str, key: str) -> None:
    body = b'{"contents":[],"generation_config":{"%s" : %s}}' % (key.encode(), zero.encode())
    assert subject(body).deterministic
    assert PROVIDER.may_be_deterministic("generate_content", body) or "\\u" in key


@pytest.mark.parametrize(
    "config",
    ["{}", '{"temperature":0.1}', '{"temperature":1}', '{"temperature":0.0005}', '{"temperature":null}', '{"topP":0}'],
)
def test_other_temperatures(config: str) -> None:
    body = (
        b'{"contents":[{"parts":[{"text":"\\"temperature\\": 0, caf\\u00e9"}]}],"generationConfig":%s}'
        % config.encode()
    )
    assert not subject(body).deterministic
    assert not PROVIDER.may_be_deterministic("generate_content", body)


def test_what_is_not_generated_is_deterministic() -> None:
    assert PROVIDER.may_be_deterministic("count_tokens", b"{}")
    assert PROVIDER.may_be_deterministic("list_models", b"")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({}, ""),
        ({"tools": [{"functionDeclarations": [{"name": "googleSearch"}]}]}, ""),
        ({"tools": [{"functionDeclarations": []}, {"google_search": {}}]}, "tool googleSearch"),
        ({"tools": [{"urlContext": {}}]}, "tool urlContext"),
        ({"tools": {"url_context": {}}}, "tool urlContext"),
        ({"tools": "search"}, "tool unknown"),
        ({"tools": [{"codeExecution": {}}]}, "tool codeExecution"),
        ({"tools": [{"mcp_servers": [{}]}]}, "tool mcpServers"),
        ({"tools": [{"something_new": {}}]}, "tool something_new"),
        ({"cachedContent": "cachedContents/1"}, "an explicit cache"),
        ({"contents": [{"parts": [{"file_data": {"file_uri": "u"}}]}]}, "a file"),
        ({"systemInstruction": {"parts": [{"fileData": {"fileUri": "u"}}]}}, "a file"),
        ({"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"fileData": {}}}}]}]}, ""),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "parts": [{"fileData": {"fileUri": "u"}}]}}]}]},
            "a file",
        ),
    ],
)
def test_what_answers_depend_on(more: dict[str, Any], what: str) -> None:
    assert subject(hello(**more)).depends_on == what


CHAT = "/v1beta/openai/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "models/m", "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({}, ""),
        ({"tools": [{"type": "function", "function": {}}]}, ""),
        ({"tools": [{"type": "web_search"}]}, "tool web_search"),
        ({"tools": {"type": "web_search"}}, "tool web_search"),
        ({"web_search_options": {}}, "tool web_search"),
        ({"extra_body": {"google": {"cached_content": "c"}}}, "an explicit cache"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://a/b"}}]}]}, "a file"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]}, ""),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "a file"),
    ],
)
def test_what_completions_depend_on(more: dict[str, Any], what: str) -> None:
    assert subject(chat(**more), CHAT).depends_on == what


def test_completions() -> None:
    found = subject(chat(temperature=0.0, stream=True, n=None), CHAT)
    assert (found.operation, found.model, found.kind) == ("openai_chat_completions", "m", "generation")
    assert (found.shape, found.deterministic) == ("sse", True)
    assert json.loads(found.body) == {"messages": chat()["messages"], "temperature": 0, "stream": True}
    unary = subject(chat(temperature=0, stream=False), CHAT)
    assert (unary.shape, unary.body == found.body) == ("unary", False)
    assert unary == subject(chat(temperature=0), CHAT)
    assert subject(chat(), CHAT + "/id").variant != subject(chat(), CHAT).variant


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "a stored interaction"),
        ({"store": True}, "a stored interaction"),
        ({"store": None}, "a stored interaction"),
        ({"store": False, "previous_interaction_id": "i"}, "continues a stored interaction"),
        ({"store": False, "background": True}, "works in the background"),
        ({"store": False, "agent": "a"}, "asks an agent"),
    ],
)
def test_interactions_that_are_never_cached(more: dict[str, Any], why: str) -> None:
    assert ask({"model": "m", "input": "hi", **more}, "/v1/interactions") == why


def test_interactions_that_are_not_stored() -> None:
    body = {"model": "m", "input": "hi", "store": False, "background": False, "generation_config": {"temperature": 0}}
    found = subject(body, "/v1/interactions")
    assert (found.model, found.shape, found.deterministic, found.depends_on) == ("m", "unary", True, "")
    assert subject({**body, "stream": True}, "/v1/interactions").shape == "sse"
    for more, what in (
        ({"tools": [{"type": "google_search"}]}, "tool google_search"),
        ({"tools": [{"type": "function", "name": "f"}]}, ""),
        ({"input": [{"type": "image", "uri": "https://a/b"}]}, "a file"),
        ({"input": [{"role": "user", "content": [{"type": "image", "uri": "https://a/b"}]}]}, "a file"),
        ({"cached_content": "c"}, "an explicit cache"),
    ):
        assert subject({**body, **more}, "/v1/interactions").depends_on == what


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("list_models", "listing"),
        ("compute_tokens", "tokens"),
        ("openai_embeddings", "embedding"),
        ("stream_generate_content", "generation"),
        ("create_interaction", "generation"),
        *((name, None) for name in ("predict", "get_operation", "list_files", "live", "upload_file")),
        *((name, None) for name in ("unknown", "get_interaction", "get_batch", "create_cached_content")),
    ],
)  # fmt: skip
def test_kinds_of_operations(operation: str, kind: str | None) -> None:
    assert PROVIDER.cache_kind(operation) == kind
    if kind is None:
        assert PROVIDER.cache_subject(operation, "m", GENERATE, (), b"{}") == "the operation is never cached"


ODD: list[Any] = [
    None,
    1,
    "x",
    [],
    {},
    [None, 1, "x", [], {}],
    {"parts": [None, {"inlineData": 1, "functionCall": []}], "uri": 1},
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "target",
    [
        GENERATE,
        CHAT,
        "/v1/interactions",
        "/v1internal:generateContent",
        *TARGETS[8:10],
        "/v1/models/m:batchEmbedContents",
    ],
)
def test_nothing_raises_on_odd_bodies(odd: Any, target: str) -> None:
    names = ("contents", "tools", "messages", "input", "request", "requests", "content", "systemInstruction")
    more = ("generationConfig", "generation_config", "model", "extra_body", "generateContentRequest", "cachedContent")
    for name in (*names, *more):
        assert ask({"store": False, name: odd}, target)
    for name in ("properties", "anyOf", "items", "default"):
        assert ask(hello(generationConfig={"responseSchema": {name: odd}}), target)


@pytest.mark.parametrize("query", ["?%ff=%fe", "?\udcff=\ud800", "?&&=&a", "?alt=;;", "?$alt=%3B"])
def test_nothing_raises_on_odd_queries(query: str) -> None:
    found = PROVIDER.cache_subject("generate_content", "m", GENERATE + query, (), b"{}")
    assert isinstance(found, CacheSubject)


def test_a_normaliser_changes_only_the_canonical_body() -> None:
    body = json.dumps(hello(model="models/m")).encode()
    found = PROVIDER.cache_subject("generate_content", "m", GENERATE, (), body, lambda value: {"seen": value})
    assert isinstance(found, CacheSubject)
    assert json.loads(found.body) == {"seen": hello()}
