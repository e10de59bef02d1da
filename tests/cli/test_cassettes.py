"""`export`, `import` and `replay`: through files, stores and a running program."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import answered
from factories import exchange, response
from gemini_caching_proxy.cassette import read_cassette, write_cassette
from gemini_caching_proxy.exchange import Exchange, Response
from gemini_caching_proxy.stores.base import Query
from gemini_caching_proxy.stores.sqlite import SQLiteStore
from replaying import replaying

from .conftest import Ran, Recorded, put

Call = Callable[..., Ran]


def everything(folder: Path) -> list[Exchange]:
    """What a folder's store holds, oldest first."""

    async def read() -> list[Exchange]:
        store = SQLiteStore(folder / "exchanges.sqlite3")
        await store.open(read_only=True)
        try:
            page = await store.list(Query(), limit=500)
            return [await store.get(one.id) for one in reversed(page.items)]
        finally:
            await store.aclose()

    return asyncio.run(read())


def answer_of(one: Exchange) -> Response:
    assert isinstance(one.outcome, Response)
    return one.outcome


# export


def test_export_writes_what_fits_oldest_first_and_says_what_it_left_out(
    call: Call, recorded: Recorded, tmp_path: Path
) -> None:
    path = tmp_path / "all.cassette"
    ran = call("export", "--cassette", str(path), *recorded.where)
    assert ran.code == 0
    assert f"Wrote 5 exchanges to {path}" in ran.out
    assert "Left out: 1 exchange, no complete answer came." in ran.err
    assert [one.id for one in read_cassette(path)] == [
        one.id for one in (recorded.old, recorded.plain, recorded.first, recorded.second, recorded.limited)
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (["--model", "gemini-2.5-pro"], ["first", "second"]),
        (["--since", "1h", "--status", "429"], ["limited"]),
        (["--contains", "ducks"], ["plain"]),
        (["second", "plain"], ["plain", "second"]),
        (["plain", "plain"], ["plain"]),
    ],
)
def test_export_chooses_by_filters_or_ids(
    call: Call, recorded: Recorded, tmp_path: Path, choice: list[str], expected: list[str]
) -> None:
    arguments = [str(getattr(recorded, one).id) if hasattr(recorded, one) else one for one in choice]
    ran = call("export", *arguments, "--cassette", str(tmp_path / "some.cassette"), *recorded.where)
    assert ran.code == 0
    found = [one.id for one in read_cassette(tmp_path / "some.cassette")]
    assert found == [getattr(recorded, name).id for name in expected]


def test_export_tells_programs_too(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "a.cassette"
    (record,) = call("export", "--json", "--cassette", str(path), *recorded.where).records
    assert record == {"exchanges": 5, "bytes": path.stat().st_size, "left_out": {"failed": 1}}


def test_export_to_standard_output_writes_the_file_and_nothing_else(recorded: Recorded, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gemini_caching_proxy", "export", "--cassette", "-", *recorded.where],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    (tmp_path / "out.cassette").write_bytes(done.stdout)
    assert len(list(read_cassette(tmp_path / "out.cassette"))) == 5
    assert b"Wrote 5 exchanges to standard output" in done.stderr


def test_exporting_again_makes_the_same_bytes(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert call("export", "--cassette", str(tmp_path / name), *recorded.where).code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_export_writes_over_a_file_only_when_told(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "a.cassette"
    path.write_text("precious")
    ran = call("export", "--cassette", str(path), *recorded.where)
    assert ran.code == 2
    assert "--force" in ran.err
    assert path.read_text() == "precious"
    assert call("export", "--force", "--cassette", str(path), *recorded.where).code == 0
    assert len(list(read_cassette(path))) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--cassette"),
        (["--cassette", "."], 2, "is a folder"),
        (["--cassette", "nowhere/a.cassette"], 1, "cannot be written: No such file"),
        (["--cassette", "a", "--model", "x", "12345678"], 2, "ids or filters"),
        (["--cassette", "a", "--model", "unheard-of"], 1, "nothing to write"),
        (["--cassette", "a", "ffffffff"], 1, "ffffffff"),
    ],
)
def test_export_refuses_what_it_cannot_do(
    call: Call, recorded: Recorded, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    ran = call("export", *arguments, *recorded.where)
    assert ran.code == code
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert not list(tmp_path.glob("a*"))


def test_export_of_nothing_tells_the_first_steps(call: Call, tmp_path: Path) -> None:
    ran = call("export", "--cassette", "a", "--data-dir", str(tmp_path / "empty"))
    assert ran.code == 1
    assert "gemini-proxy serve" in ran.err


def test_no_secret_gets_into_the_file(call: Call, tmp_path: Path) -> None:
    secret = "canary-5ec2e7-c0ffee"
    one = exchange(
        credential=secret,
        client_address=f"{secret}:1",
        request_headers=(
            (b"x-goog-api-key", secret.encode()),
            (b"cookie", secret.encode()),
            (b"x-me", secret.encode()),
        ),
        outcome=response([b"{}"], headers=((b"set-cookie", secret.encode()),)),
    )
    put(tmp_path / "data", [one])
    path = tmp_path / "a.cassette"
    assert call("export", "--cassette", str(path), "--data-dir", str(tmp_path / "data")).code == 0
    (found,) = read_cassette(path)
    assert secret not in repr(found)
    assert found.request_body.data == one.request_body.data


# import


def test_what_is_exported_can_be_imported_elsewhere(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    path, there = tmp_path / "a.cassette", tmp_path / "elsewhere"
    assert call("export", "--cassette", str(path), *recorded.where).code == 0
    ran = call("import", str(path), "--data-dir", str(there))
    assert ran.code == 0
    assert "Took in 5 exchanges of 5." in ran.out
    had = {one.id: one for one in everything(recorded.folder)}
    found = everything(there)
    assert len(found) == 5
    for one in found:
        origin = had[one.id]
        assert one.request_body.data == origin.request_body.data
        assert answer_of(one).body.data == answer_of(origin).body.data
        assert answer_of(one).chunks == answer_of(origin).chunks
        assert one.started_ns == origin.started_ns
        assert (one.credential, one.client_address) == (None, "")


def test_what_is_imported_is_understood(call: Call, tmp_path: Path) -> None:
    path, there = tmp_path / "a.cassette", tmp_path / "there"
    first, second = (
        answered.recorded(answered.talk("Is it?")),
        answered.recorded(answered.talk("Is it?", "Yes.", "Sure?"), 1),
    )
    usage = {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}}
    counted = answered.recorded(
        answered.talk("Count"), 2, outcome=response([json.dumps({**answered.ANSWER, **usage}).encode()])
    )
    write_cassette(path, [first, second, counted])
    assert call("import", str(path), "--data-dir", str(there)).code == 0
    one, two, three = everything(there)
    assert one.response_text == "Yes."
    assert (two.conversation, two.parent) == (first.id, first.id)
    assert three.usage is not None
    assert three.usage.input_tokens == 7
    assert three.price is not None
    assert [
        record["id"] for record in call("list", "--contains", "Sure", "--json", "--data-dir", str(there)).records
    ] == [str(second.id)]


def test_what_is_imported_can_answer_everybody(call: Call, tmp_path: Path) -> None:
    path, there = tmp_path / "a.cassette", tmp_path / "there"
    one = answered.recorded(answered.talk("Is it?"), credential="fp_1111111111111111")
    write_cassette(path, [one])
    assert call("import", str(path), "--data-dir", str(there)).code == 0
    (entry,) = call("cache", "list", "--json", "--data-dir", str(there)).records
    assert entry["exchange"] == str(one.id)
    assert entry["credential"] is None
    assert (there / "cache.changed").exists()


def test_importing_twice_changes_nothing(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    path, there = tmp_path / "a.cassette", tmp_path / "there"
    assert call("export", "--cassette", str(path), *recorded.where).code == 0
    assert call("import", str(path), "--data-dir", str(there)).code == 0
    before = everything(there)
    (record,) = call("import", "--json", str(path), "--data-dir", str(there)).records
    assert record == {"exchanges": 5, "added": 0, "duplicates": 5}
    assert everything(there) == before


def test_nothing_of_a_damaged_file_gets_in(call: Call, recorded: Recorded, tmp_path: Path) -> None:
    path, there = tmp_path / "a.cassette", tmp_path / "there"
    assert call("export", "--cassette", str(path), *recorded.where).code == 0
    path.write_bytes(path.read_bytes()[:-9])
    ran = call("import", str(path), "--data-dir", str(there))
    assert ran.code == 1
    assert "is damaged" in ran.err
    assert not (there / "exchanges.sqlite3").exists()


# replay


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"GIF89a", "is no cassette"), (b"gemini-proxy cassette 1\nx", "damaged")],
)
def test_replay_of_what_is_no_cassette_is_one_sentence(
    call: Call, tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "a.cassette"
    if content is not None:
        path.write_bytes(content)
    ran = call("replay", str(path))
    assert ran.code == 2
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_replay_has_no_flag_that_would_make_it_record_or_call_out(call: Call, tmp_path: Path) -> None:
    for flag in ("--record", "--store=x", "--data-dir=x", "--cache=all", "--cassette=x"):
        ran = call("replay", str(tmp_path / "a.cassette"), flag)
        assert ran.code == 2
        assert "No such option" in ran.err


def ask(url: str, request: dict[str, Any], key: str = "any-key-at-all") -> tuple[int, bytes]:
    target = f"{url}/v1beta/models/gemini-2.5-flash:generateContent"
    headers = {"Content-Type": "application/json", "x-goog-api-key": key}
    try:
        with urlopen(Request(target, json.dumps(request).encode(), headers), timeout=20) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_replay_answers_from_the_cassette_alone_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.cassette"
    one = answered.recorded({**answered.talk("Is it?"), "generationConfig": {"temperature": 1.5}})
    refused = answered.recorded(answered.talk("Too much?"), 1, outcome=response([b'{"error":{}}'], status=429))
    write_cassette(path, [one, refused])
    before = sorted(tmp_path.iterdir())
    with replaying(path, tmp_path, "--gemini-base-url", "http://127.0.0.1:9") as told:
        assert told["exchanges"] == 2
        assert ask(told["url"], json.loads(one.request_body.data)) == (200, answer_of(one).body.data)
        assert ask(told["url"], json.loads(one.request_body.data), key="another") == (200, answer_of(one).body.data)
        assert ask(told["url"], answered.talk("Too much?")) == (429, b'{"error":{}}')
        status, explanation = ask(told["url"], answered.talk("Never asked"))
        assert status == 504
        assert explanation
    assert [one for one in sorted(tmp_path.iterdir()) if one.name != "replay.log"] == before


def test_replay_tells_people_the_url(tmp_path: Path) -> None:
    path = tmp_path / "a.cassette"
    write_cassette(path, [answered.recorded(answered.talk("Is it?"))])
    process = subprocess.Popen(
        [sys.executable, "-m", "gemini_caching_proxy", "replay", str(path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    process.terminate()
    process.wait(30)
    process.stdout.close()
    assert line.startswith(f"Answering from 1 exchange of {path} on http://127.0.0.1:")
