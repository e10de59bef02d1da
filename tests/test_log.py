"""Log lines as another program reads them from stderr: one line each, scrubbed, parseable."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from gemini_caching_proxy.log import LogFormat, configure_logging, get_logger
from gemini_caching_proxy.redaction import Redactor

REDACTOR = Redactor(bytes(32))
CANARY = "AI" + "za" + "x7Kp2QmZ9vLrT4wYbN6hGd3JfS8cA5uE1iO"


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    return captured.err.splitlines()


@pytest.mark.parametrize("format", ["console", "json"])
def test_every_message_is_one_scrubbed_line(capsys: pytest.CaptureFixture[str], format: LogFormat) -> None:
    configure_logging("debug", format, REDACTOR)
    log = get_logger("product.part")
    log.info("plain", number=3, key=CANARY)
    log.warning("line\nbreak \x1b[31m red \u2028 \x85 end", data=b"\x00\xff", lone="\ud800", huge=1 << 80)
    logging.getLogger("library").error("from a %s with %s", "library", CANARY)
    structlog.get_logger("direct").error("key is", key=CANARY)
    try:
        raise ValueError(f"bad key {CANARY}\nsecond line")
    except ValueError:
        log.exception("failed")
    found = lines(capsys)
    assert len(found) == 5
    text = "\n".join(found)
    assert CANARY not in text
    assert text.count(REDACTOR.fingerprint(CANARY.encode())) >= 4
    assert "ValueError" in found[4]
    assert "second line" in found[4]
    assert all(char.isprintable() for line in found for char in line)


def test_json_lines_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", REDACTOR)
    log = get_logger("product.part")
    log.info('say "hi"', path="C:\\x\n", nested={"a": [1, None]}, other=object)
    log.error("odd", lone="\ud800", huge=1 << 80)
    first, second = map(json.loads, lines(capsys))
    assert list(first)[:4] == ["time", "level", "logger", "event"]
    assert (first["level"], first["logger"], first["event"]) == ("info", "product.part", 'say "hi"')
    assert (first["path"], first["nested"]) == ("C:\\x\n", {"a": [1, None]})
    assert first["time"].endswith("Z")
    assert (second["event"], second["huge"]) == ("odd", str(1 << 80))


def test_level_is_obeyed_by_all(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "console", REDACTOR)
    get_logger("product.part").info("not this")
    logging.getLogger("library").info("nor this")
    get_logger("product.part").warning("but this")
    assert [line.split()[-2:] for line in lines(capsys)] == [["but", "this"]]


def test_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", REDACTOR)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"old way with {CANARY}", stacklevel=1)
        logging.captureWarnings(False)
    (record,) = map(json.loads, lines(capsys))
    assert record["logger"] == "py.warnings"
    assert "old way with fp_" in record["event"]


def test_auto_is_json_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    configure_logging("info", "auto", REDACTOR)
    get_logger("product.part").info("hello")
    assert json.loads(lines(capsys)[0])["event"] == "hello"


def test_configuring_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json", REDACTOR)
    configure_logging("info", "json", REDACTOR)
    get_logger("product.part").info("once")
    assert len(lines(capsys)) == 1
