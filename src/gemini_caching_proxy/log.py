"""Logging: one line per message on stderr, free of secrets and of control characters.

Everything goes through one handler of the standard library's logging, so messages of libraries and Python's warnings
get the same treatment. The last two steps before a line is written are scrubbing and escaping: a traceback, too, is
one scrubbed line.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Literal, Protocol

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHARED: tuple[Processor, ...] = (
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
)


class Scrubber(Protocol):
    """What takes secrets out of a line; a `Redactor` is one."""

    def text(self, text: str) -> str: ...


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes an event and key-value pairs; before `configure_logging` only warnings show."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def configure_logging(level: LogLevel, format: LogFormat, redactor: Scrubber) -> None:
    """Send all logging of this process to stderr, replacing what was configured before.

    `auto` is console lines on a terminal and JSON lines elsewhere.
    """
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _render_console if console else _render_json,
                _scrub_with(redactor),
                _one_line,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # For code that asks structlog itself for a logger.
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`time`, `level`, `event` first; what JSON does not know is shown as text."""
    first = {key: event.pop(key) for key in ("time", "level", "logger", "event") if key in event}
    rest = {str(key): value for key, value in event.items()}
    try:
        return orjson.dumps({**first, **rest}, default=repr).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return orjson.dumps({key: _plain(value) for key, value in {**first, **rest}.items()}).decode()


def _plain(value: object) -> str:
    return (value if isinstance(value, str) else repr(value)).encode("utf-8", "backslashreplace").decode()


def _render_console(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    time, level, message = event.pop("time", ""), event.pop("level", ""), event.pop("event", "")
    trace = event.pop("exception", None)
    event.pop("logger", None)
    pairs = "".join(f" {key}={_short(value)}" for key, value in event.items())
    return f"{time} {level:<7} {message}{pairs}" + (f" | {trace}" if trace else "")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text) if not text or " " in text or "=" in text else text


def _scrub_with(redactor: Scrubber) -> Processor:
    def scrub(_logger: WrappedLogger, _method: str, line: Any) -> Any:
        return redactor.text(line)

    return scrub


def _one_line(_logger: WrappedLogger, _method: str, line: Any) -> Any:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
