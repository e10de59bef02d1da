"""Numbers and times as people read and write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

NANO = 1_000_000_000
NONE = "–"
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w)")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?")
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def count_text(value: int | None) -> str:
    """1234 -> `1.2k`."""
    if value is None:
        return NONE
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"
    return str(value)


def bytes_text(value: int | None) -> str:
    """1536 -> `1.5 KiB`."""
    if value is None:
        return NONE
    for limit, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value} B"


def read_size(text: str) -> int:
    """`500k`, `20MB`, `1.5 GiB`, or plain bytes -> bytes; units are powers of 1024.

    Raises:
        ValueError: a sentence that says what is understood.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no size: write 500k, 20M or 1G")
    return int(float(match[1]) * (1 << 10 * "bkmgt".index(match[2] or "b")))


def duration_text(microseconds: int | None) -> str:
    """2_400_000 -> `2.4s`."""
    if microseconds is None:
        return NONE
    if microseconds < 10_000:
        return f"{microseconds / 1000:.1f}ms"
    if microseconds < 1_000_000:
        return f"{microseconds // 1000}ms"
    seconds = microseconds / 1_000_000
    if seconds < 100:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}m"


def cost_text(nanousd: int | None) -> str:
    """Billionths of a dollar -> `$0.0012`; unknown is never shown as free."""
    if nanousd is None:
        return NONE
    dollars = nanousd / NANO
    if dollars == 0:
        return "$0"
    if dollars < 0.0001:
        return "<$0.0001"
    digits = 0 if dollars >= 1000 else 2 if dollars >= 1 else 4
    return f"${dollars:,.{digits}f}"


def local_time(ns: int) -> datetime:
    """A Unix time in nanoseconds as the user's local time."""
    return datetime.fromtimestamp(ns / NANO, tz=UTC).astimezone()


def clock_text(ns: int, now: datetime) -> str:
    """`14:03:22` on the same day, else `11-23 14:03`, or the date for another year."""
    moment = local_time(ns)
    if moment.date() == now.astimezone().date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%m-%d %H:%M") if moment.year == now.year else moment.strftime("%Y-%m-%d")


def iso_text(ns: int) -> str:
    """UTC with microseconds, as the JSON lines carry it."""
    whole = datetime.fromtimestamp(ns // NANO, tz=UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % NANO // 1000:06}Z"


def read_age(text: str) -> timedelta:
    """`30m`, `2h`, `7d`, `1w` -> a duration.

    Raises:
        ValueError: a sentence that says what is understood.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write 30m, 2h, 7d or 4w")
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        raise ValueError(f"{text!r} is too long a duration") from None


def read_moment(text: str, now: datetime) -> int:
    """A duration back from `now`, or an ISO date or time (local where no zone is given) -> Unix nanoseconds.

    Raises:
        ValueError: a sentence that says what is understood.
    """
    try:
        moment = now - read_age(text)
    except (ValueError, OverflowError):
        try:
            moment = datetime.fromisoformat(text.strip()).astimezone()
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r} is no time: write 30m, 2h, 7d, 2026-01-31 or 2026-01-31T14:00") from None
    return int(moment.timestamp()) * NANO + moment.microsecond * 1000
