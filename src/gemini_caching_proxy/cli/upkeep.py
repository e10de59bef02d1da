"""`status` and `prune`: how the record is doing, and keeping it small."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from time import time_ns
from typing import Annotated, Any

import typer
from rich.text import Text

from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.recording_status import RecorderStatus, read_status, wait_drained
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import store_exists, store_name
from gemini_caching_proxy.stores.base import Gap, StoreSize

from .access import first_steps, reading, writing
from .figures import bytes_text, count_text, iso_text, local_time, read_moment
from .options import FOLDER, JSON, Bundle, option, refuse, with_options
from .terminal import note, one_line, output, say, write_json

EXIT_TIMEOUT = 4
TELLING_BYTES = 1 << 20
"""Below this the store's own overhead outweighs what it holds."""

DRAIN = Bundle(
    (
        option("wait_drained", bool, "Wait until every exchange that has ended is stored.", "--wait-drained"),
        option(
            "timeout",
            float,
            "Longest wait in seconds, 60 by default; then the exit code is 4.",
            "--timeout",
            min=0,
            metavar="SECONDS",
        ),
    ),
    dict,
)


@with_options(drain=DRAIN, json=JSON, settings=FOLDER)
async def status(settings: Settings, drain: Mapping[str, Any], json: bool) -> None:
    """Tell whether recording keeps up, and how big the store is."""
    if drain["timeout"] is not None and not drain["wait_drained"]:
        raise refuse("--timeout", "goes with --wait-drained")
    timeout = 60.0 if drain["timeout"] is None else drain["timeout"]
    drained = await wait_drained(settings, timeout) if drain["wait_drained"] else None
    report = await _report(settings)
    if drained is not None:
        report["drained"] = drained
    if json:
        write_json(report)
    else:
        _print(report, settings)
    if drained is False:
        note(f"gemini-proxy: not drained within {timeout:g} s.")
        raise typer.Exit(EXIT_TIMEOUT)


async def _report(settings: Settings) -> dict[str, Any]:
    """The names of `status --json`."""
    now = time_ns()
    recorder = read_status(settings.data_dir)
    size, gaps, problem = await _look_into_store(settings)
    return {
        "data_dir": str(settings.data_dir),
        "store": store_name(settings),
        **_recorder_report(recorder, now),
        **_size_report(size),
        "gap_exchanges": sum(gap.exchanges for gap in gaps),
        "gaps": [
            {
                "exchanges": gap.exchanges,
                "first": iso_text(gap.first_ns),
                "last": iso_text(gap.last_ns),
                "reason": gap.reason,
            }
            for gap in gaps
        ],
        "store_problem": problem,
    }


async def _look_into_store(settings: Settings) -> tuple[StoreSize | None, tuple[Gap, ...], str | None]:
    if not store_exists(settings):
        return None, (), None
    try:
        async with reading(settings) as store:
            return await store.size(), await store.gaps(), None
    except StoreUnavailable as error:
        return None, (), str(error)


def _recorder_report(recorder: RecorderStatus | None, now_ns: int) -> dict[str, Any]:
    if recorder is None:
        return {
            "recorder_alive": False,
            "recorder_state": None,
            "backlog_bytes": None,
            "oldest_unstored": None,
            "open_exchanges": None,
        }
    oldest = recorder.oldest_unstored_ns
    return {
        "recorder_alive": recorder.alive(now_ns),
        "recorder_state": recorder.state,
        "backlog_bytes": recorder.backlog_bytes,
        "oldest_unstored": iso_text(oldest) if oldest is not None else None,
        "open_exchanges": recorder.open_exchanges,
        "stored": recorder.stored,
        "rejected": recorder.rejected,
        "damaged_frames": recorder.damaged_frames,
    }


def _size_report(size: StoreSize | None) -> dict[str, Any]:
    if size is None:
        return {"exchanges": None, "parts": None, "file_bytes": None, "body_bytes": None, "dedup_ratio": None}
    return {
        "exchanges": size.exchanges,
        "parts": size.parts,
        "file_bytes": size.file_bytes,
        "body_bytes": size.body_bytes,
        "dedup_ratio": round(size.file_bytes / size.body_bytes, 4) if size.body_bytes else None,
    }


def _print(report: Mapping[str, Any], settings: Settings) -> None:
    console = output()
    for name, text, style in _status_lines(report):
        console.print(Text(f"{name:<10}", "dim").append(one_line(text, 2000), style), soft_wrap=True)
    if report["exchanges"] is None and report["store_problem"] is None:
        note(first_steps(settings))


def _dedup(report: Mapping[str, Any]) -> str:
    passed = f"{bytes_text(report['body_bytes'])} of bodies passed"
    if report["body_bytes"] < TELLING_BYTES:
        return f"{passed}, too little to compare"
    return f"{passed}; the store takes {report['dedup_ratio']:.1%} of that"


def _status_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    alive = report["recorder_alive"]
    state = report["recorder_state"] or "never ran here"
    lines = [
        ("folder", report["data_dir"], ""),
        (
            "recorder",
            state if alive or state == "stopped" else f"not running ({state})",
            "green" if alive and state == "running" else "yellow",
        ),
    ]
    if report["backlog_bytes"] is not None:
        waiting = f"{bytes_text(report['backlog_bytes'])} of journal to take in"
        if report["open_exchanges"]:
            waiting += f", {report['open_exchanges']} exchanges running"
        lines.append(("backlog", waiting, ""))
    if report.get("rejected"):
        lines.append(("rejected", f"{report['rejected']} exchanges are in {report['data_dir']}/rejected", "red"))
    if report["store_problem"]:
        lines.append(("store", report["store_problem"], "red"))
    if report["exchanges"] is not None:
        lines.append(("store", f"{bytes_text(report['file_bytes'])} in {report['store']}", ""))
        lines.append(("holds", f"{count_text(report['exchanges'])} exchanges, {count_text(report['parts'])} parts", ""))
        lines.append(("dedup", _dedup(report), ""))
    gaps = report["gap_exchanges"]
    lines.append(
        (
            "gaps",
            f"{gaps} exchanges could not be recorded" if gaps else "none: every exchange was recorded",
            "red" if gaps else "",
        )
    )
    lines += [
        ("", f"{gap['exchanges']} from {gap['first']} to {gap['last']}: {gap['reason']}", "red")
        for gap in report["gaps"][-5:]
    ]
    if "drained" in report:
        lines.append(("drained", "yes" if report["drained"] else "no", ""))
    return lines


@with_options(json=JSON, settings=FOLDER)
async def prune(
    settings: Settings,
    json: bool,
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="AGE", help="Age such as 12h, 30d or 4w, or a date.", show_default=False),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove old exchanges and free the parts nobody uses.

    Sums of what is removed stay in `stats`. It works beside a running proxy.
    """
    now = datetime.now().astimezone()
    try:
        moment = read_moment(older_than, now)
    except ValueError as error:
        raise refuse("--older-than", error) from None
    if moment > time_ns():
        raise refuse("--older-than", f"{older_than!r} lies in the future")
    if not store_exists(settings):
        note(first_steps(settings))
        return
    if not yes:
        _ask(moment, settings)
    async with writing(settings) as store:
        result = await store.prune(older_than_ns=moment)
    if json:
        write_json({"exchanges": result.exchanges, "parts": result.parts, "bytes_freed": result.bytes_freed})
    else:
        freed = bytes_text(result.bytes_freed)
        say(f"Removed {result.exchanges} exchanges and {result.parts} parts; {freed} are free again.")


def _ask(moment: int, settings: Settings) -> None:
    if not sys.stdin.isatty():
        raise refuse("--yes", "is needed where nobody can be asked")
    question = f"Remove every exchange before {local_time(moment):%Y-%m-%d %H:%M} from {store_name(settings)}?"
    if not typer.confirm(question, err=True):
        note("Nothing was removed.")
        raise typer.Exit(1)
