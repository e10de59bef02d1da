"""Normalisers ignore what they say they ignore, and nothing else."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.cache.normalisers import NAMED, Normalisers
from gemini_caching_proxy.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs/normalisers.md"


def prompt(text: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}]}


def of(*names: str, patterns: tuple[str, ...] = ()) -> Normalisers:
    return Normalisers.of(names, patterns)


ROO = """Fix it.
<environment_details>
# VSCode Visible Files
src/{file}

# VSCode Open Tabs
src/{file},README.md

# Current Time
Current time in ISO 8601 UTC format: 2026-03-0{day}T10:20:30.12{day}Z
User time zone: Europe/Berlin, UTC+1:00

# Current Cost
$0.{day}3

# Current Mode
<slug>{mode}</slug>
</environment_details>"""
CLINE = """Fix it.
# Visual Studio Code Open Tabs
{file}

# Actively Running Terminals
## Original command: `npm run {file}`

# Current Time
3/{day}/2026, 10:20:3{day} PM (Europe/Berlin, UTC+1:00)

# Context Window Usage
{day},200 / 200K tokens used (1%)

# Current Mode
{mode} MODE"""
GEMINI_CLI = """This is the Gemini CLI.
Today's date is Sunday, March {day}, 2026 (formatted according to the user's locale).
The project's temporary directory is: /home/u/.gemini/tmp/{file}
Background PIDs: {day}77
Mode: {mode}"""


@pytest.mark.parametrize(("name", "template"), [("roo", ROO), ("cline", CLINE), ("gemini-cli", GEMINI_CLI)])
def test_bundles_ignore_what_their_client_puts_in(name: str, template: str) -> None:
    normalise = of(name)
    one = prompt(template.format(day=1, file="a1", mode="code"))
    later = prompt(template.format(day=2, file="b2", mode="code"))
    other = prompt(template.format(day=1, file="a1", mode="plan"))
    assert one != later
    assert normalise(one) == normalise(later)
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("name", "one", "other", "different"),
    [
        ("iso-times", "at 2026-03-01T10:20:30.123Z.", "at 2027-01-31 00:00.", "at noon."),
        ("dates", "on March 1, 2026 and 2026-03-01", "on Friday, July 14, 2028 and 2028-07-14", "on May Day and"),
        ("uuids", "id 0b9f7c1e-3c5a-4a52-9d0e-0123456789AB", "id ffffffff-3c5a-4a52-9d0e-0123456789ab", "id 0b9f7c1e"),
        ("pids", "pid 123, process id: 4", "pid 9, process id: 77", "pid x, process id: 77"),
        ("temp-folders", "cd /tmp/xyz123/src", "cd /tmp/abc/src", "cd /tmp/abc/test"),
        ("temp-folders", "cd /var/folders/zz/abc/T/x1/src", "cd /var/folders/yy/def/T/z/src", "cd /var/lib/x/src"),
        (
            "temp-folders",
            "/root/.gemini/tmp/0a1b/chats",
            "/root/.gemini/tmp/ffff/chats",
            "/home/.gemini/tmp/0a1b/chats",
        ),
        ("temp-folders", r"C:\Users\u\AppData\Local\Temp\1\x", r"C:\Users\u\AppData\Local\Temp\22\x", r"C:\Temp\22\x"),
        ("durations", "passed in 1.24s", "passed in 10s", "failed in 1.24s"),
        (
            "current-cost",
            "# Current Cost\n$0.12\nx",
            "# Current Cost\n$10.00 (estimated)\nx",
            "# Current Cost\nfree\nx",
        ),
    ],
)
def test_named_normalisers(name: str, one: str, other: str, different: str) -> None:
    normalise = of(name)
    assert normalise(prompt(one)) == normalise(prompt(other))
    assert normalise(prompt(one)) != normalise(prompt(different))


UUID = "0b9f7c1e-3c5a-4a52-9d0e-0123456789ab"


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [{"parts": [{"text": "{}"}]}]},
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"output": {"name": "{}"}}}}]}]},
        {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"data": ["{}"]}}}]}]},
        {"systemInstruction": {"parts": [{"text": "{}"}]}},
        {"request": {"contents": [{"parts": [{"text": "{}"}]}]}},
        {"generateContentRequest": {"contents": [{"parts": [{"text": "{}"}]}]}},
        {"requests": [{"content": {"parts": [{"text": "{}"}]}}]},
        {"messages": [{"role": "user", "content": "{}"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "{}"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":"{}"}'}}]}]},
        {"input": "{}"},
        {"input": [{"type": "text", "text": "{}"}]},
    ],
)
def test_texts_of_every_dialect_are_looked_at(body: Any) -> None:
    def with_id(value: Any, last: str) -> Any:
        if isinstance(value, str):
            return value.replace("{}", UUID[:-1] + last)
        if isinstance(value, list):
            return [with_id(each, last) for each in value]
        return {name: with_id(item, last) for name, item in value.items()} if isinstance(value, dict) else value

    assert of("uuids")(with_id(body, "1")) == of("uuids")(with_id(body, "2"))


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [{"parts": [{"inlineData": {"mimeType": "a/b", "data": UUID}}]}]},
        {"contents": [{"parts": [{"text": "", "thoughtSignature": UUID}]}]},
        {"contents": [{"parts": [{"functionCall": {"name": UUID, "id": UUID}}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": UUID}}]}]},
        {"messages": [{"role": "tool", "tool_call_id": UUID}]},
        {"tools": [{"functionDeclarations": [{"name": "f", "description": UUID}]}]},
        {"generationConfig": {"stopSequences": [UUID]}},
        {"labels": {"a": UUID}},
        {"request": {"labels": {"a": UUID}, "tools": [{"x": UUID}]}},
    ],
)
def test_what_is_no_text_of_a_conversation_stays(body: Any) -> None:
    assert of("uuids")(body) == body


# --- ids of calls ---


def native(first: str, second: str, answered: tuple[str, str] | None = None) -> dict[str, Any]:
    one, two = answered or (first, second)
    calls = [{"functionCall": {"id": each, "name": "f", "args": {"id": "mine"}}} for each in (first, second)]
    results = [{"functionResponse": {"id": each, "name": "f", "response": {"id": "mine"}}} for each in (one, two)]
    return {"contents": [{"role": "model", "parts": calls}, {"role": "user", "parts": results}]}


def completion(first: str, second: str) -> dict[str, Any]:
    calls = [{"id": each, "type": "function", "function": {"name": "f"}} for each in (first, second)]
    results = [{"role": "tool", "tool_call_id": each, "content": "x"} for each in (first, second)]
    return {"messages": [{"role": "assistant", "tool_calls": calls}, *results]}


def interaction(first: str, second: str) -> dict[str, Any]:
    steps = [{"type": "function_call", "id": each, "name": "f"} for each in (first, second)]
    return {"input": [*steps, *({"type": "function_result", "call_id": each} for each in (first, second))]}


@pytest.mark.parametrize("make", [native, completion, interaction])
def test_ids_of_calls_are_numbered_as_they_appear(make: Any) -> None:
    normalise = of("tool-call-ids")
    assert normalise(make("x", "y")) == make("call_1", "call_2")
    assert normalise(make("y", "x")) == make("call_1", "call_2")
    assert normalise(make("x", "x")) == make("call_1", "call_1")
    assert normalise({"request": make("x", "y")}) == {"request": make("call_1", "call_2")}


def test_results_stay_with_their_calls() -> None:
    normalise = of("tool-call-ids")
    assert normalise(native("x", "y", ("y", "x"))) == native("call_1", "call_2", ("call_2", "call_1"))
    assert normalise(native("x", "y", ("y", "x"))) != normalise(native("x", "y"))


def test_calls_without_an_id_stay_without() -> None:
    body = {"contents": [{"parts": [{"functionCall": {"name": "f"}}, {"functionCall": {"id": "", "name": "f"}}]}]}
    assert of("tool-call-ids")(body) == body


# --- own patterns and sets ---


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("[0-9]+", "a1b22", "a…b…"),
        ("([a-z])[0-9]+ => \\1#", "a1b22", "a#b#"),
        ("é+ => ü", "éé!", "ü!"),
        ("x => ", "axb", "ab"),
        ("x =>", "axb", "ab"),
        ("a=>b", "a=>b", "…"),
        ("(a)|b => <\\1\\0>", "ab", "<aa><b>"),
        ("a => \\n", "a", "\\n"),
        ("^\\C => x", "é", "x\ufffd"),
    ],
)
def test_own_patterns(pattern: str, text: str, expected: str) -> None:
    assert of(patterns=(pattern,))(prompt(text)) == prompt(expected)


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a => \\1", "[", "*"])
def test_patterns_that_cannot_be_taken(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(pattern))):
        of(patterns=(pattern,))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no normaliser 'nope'") as error:
        of("nope")
    assert all(name in str(error.value) for name in NAMED)


def test_sets_are_known_by_what_they_do() -> None:
    assert of().name == ""
    assert of("cline").name == of("roo").name == of("roo", "tool-call-ids").name
    assert of("uuids", "pids").name == of("pids", "uuids", "pids").name
    names = [of(name).name for name in NAMED if not NAMED[name].parts]
    names += [of(patterns=patterns).name for patterns in (("a",), ("b",), ("a", "b"), ("b", "a"), ("a => b",), ("ab",))]
    names += [of("uuids", patterns=("a",)).name]
    assert len(set(names)) == len(names)


def test_the_empty_set_changes_nothing() -> None:
    assert of()(prompt(UUID)) == prompt(UUID)


def test_time_is_linear_whatever_a_prompt_holds() -> None:
    """An engine that tries every way would not come back from this one."""
    assert of(patterns=("(a*)*b => x",))(prompt("a" * 20_000)) == prompt("a" * 20_000)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=30) | st.just(UUID) | st.just("# Current Time\nnow\n\n/tmp/x"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["parts", "text", "functionCall", "args", "id", "type", "tool_calls"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(body=st.dictionaries(st.sampled_from(["contents", "messages", "input", "request", "tools"]), JSON, max_size=3))
def test_nothing_given_is_changed_and_twice_is_once(body: dict[str, Any]) -> None:
    normalise = of(*NAMED)
    before = copy.deepcopy(body)
    once = normalise(body)
    assert body == before
    assert normalise(once) == once


def test_every_normaliser_is_in_the_documents() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    expected = [
        (name, each.description + (f" (Is {', '.join(f'`{part}`' for part in each.parts)}.)" if each.parts else ""))
        for name, each in NAMED.items()
    ]
    assert rows == expected
