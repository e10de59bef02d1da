"""The fixture `gemini_replay`, as somebody's own test suite uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import answered
from e2e.serving import clean_environment
from gemini_caching_proxy.cassette import write_cassette

TEST = """
import json, os, urllib.error, urllib.request
import pytest

def ask(text):
    base = os.environ["GOOGLE_GEMINI_BASE_URL"]
    contents = [{"role": "user", "parts": [{"text": text}]}]
    body = json.dumps({"contents": contents, "generationConfig": {"temperature": 0}})
    request = urllib.request.Request(
        f"{base}/v1beta/models/gemini-2.5-flash:generateContent",
        body.encode(),
        {"content-type": "application/json", "x-goog-api-key": os.environ["GEMINI_API_KEY"]},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["candidates"][0]["content"]["parts"][0]["text"]

"""


def run_pytest(folder: Path, test: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    tests = folder / "tests"
    tests.mkdir(exist_ok=True)
    (tests / "test_it.py").write_text(TEST + test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "-W", "error"],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=folder,
        env={**clean_environment(), **environment},
    )


@pytest.fixture
def cassettes(tmp_path: Path) -> Path:
    """A folder beside the tests, with the cassette `duck.cassette`."""
    folder = tmp_path / "tests" / "cassettes"
    folder.mkdir(parents=True)
    write_cassette(folder / "duck.cassette", [answered.recorded(answered.talk("Is it a duck?"))])
    return folder


def test_a_test_is_answered_from_its_cassette(tmp_path: Path, cassettes: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
seen = []

@pytest.mark.gemini_cassette("cassettes/duck.cassette")
def test_beside_the_test(gemini_replay, tmp_path_factory):
    assert ask("Is it a duck?") == "Yes."
    assert gemini_replay.exchanges == 1
    assert os.environ["GOOGLE_GEMINI_BASE_URL"] == gemini_replay.url
    assert "GOOGLE_API_KEY" not in os.environ
    seen.append(gemini_replay.url)

@pytest.mark.gemini_cassette("tests/cassettes/duck.cassette")
def test_from_the_root_and_the_same_program(gemini_replay):
    assert [gemini_replay.url] == seen
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask("Never asked")
    with caught.value as error:
        assert error.code == 504

def test_nothing_is_left_for_others():
    assert "GOOGLE_GEMINI_BASE_URL" not in os.environ
""",
        GOOGLE_API_KEY="not-to-be-used",
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    left = [one for one in psutil.process_iter(["cmdline"]) if str(cassettes) in " ".join(one.info["cmdline"] or ())]
    assert left == []


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        (
            '@pytest.mark.gemini_cassette("cassettes/goose.cassette")',
            "gemini-proxy export --cassette cassettes/goose.cassette",
        ),
        ("", 'needs @pytest.mark.gemini_cassette("FILE")'),
        ("@pytest.mark.gemini_cassette()", 'needs @pytest.mark.gemini_cassette("FILE")'),
        ('@pytest.mark.gemini_cassette("cassettes/broken.cassette")', "is no cassette"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(tmp_path: Path, cassettes: Path, marker: str, says: str) -> None:
    (cassettes / "broken.cassette").write_text("<html>")
    done = run_pytest(tmp_path, f"{marker}\ndef test_it(gemini_replay):\n    assert not 'reached'\n")
    assert done.returncode == 1
    assert says in done.stdout
    assert "Traceback" not in done.stdout
    assert "1 error" in done.stdout


def test_a_suite_that_does_not_use_it_loads_nothing(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        """
import sys

def test_it():
    loaded = [name for name in sys.modules if name.startswith("gemini_caching_proxy")]
    assert sorted(loaded) == ["gemini_caching_proxy", "gemini_caching_proxy.pytest_plugin"]
    assert "google.genai" not in sys.modules
""",
    )
    assert done.returncode == 0, done.stdout


def test_a_client_library_finds_it_by_itself(tmp_path: Path, cassettes: Path) -> None:
    pytest.importorskip("google.genai")
    done = run_pytest(
        tmp_path,
        """
@pytest.mark.filterwarnings("default")
@pytest.mark.gemini_cassette("cassettes/duck.cassette")
def test_it(gemini_replay):
    from google import genai
    with genai.Client() as client:
        answer = client.models.generate_content(
            model="gemini-2.5-flash", contents="Is it a duck?", config={"temperature": 0}
        )
    assert answer.text == "Yes."
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
