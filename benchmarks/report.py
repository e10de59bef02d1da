"""What a reader sees: tables on the terminal, one JSON file per run, one line per figure that must be reached."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .figures import Verdict

RESULTS = Path(__file__).parent / "results"
FORMAT_VERSION = 1
PLAIN_WIDTH = 170

Json = dict[str, Any]


def console() -> Console:
    """The terminal; wide enough for the tables where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=PLAIN_WIDTH)


def show(console: Console, name: str, result: Json) -> None:
    """The tables of one workload."""
    if "samples" in result:
        rows = {subject: _throughput_row(summary) for subject, summary in result["summary"].items()}
        console.print(_table(f"{name} ({result['connections']} connections, medians)", rows))
    elif name == "latency":
        console.print(_table("latency at no load, µs", _rounded(result["unary"])))
        console.print(_table("delay of one SSE chunk at no load, µs", _rounded(result["chunks"])))
    elif "subjects" in result:
        title = f"{name}: {result['streams']} at once" if "streams" in result else f"{name}, µs"
        console.print(_table(title, _rounded(result["subjects"])))
    else:
        plain = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
        if plain:
            console.print(_table(name, {key: {"value": value} for key, value in _round_values(plain).items()}))
    for caution in result.get("cautions", []):
        console.print(f"[yellow]{escape(f'Caution: {caution}')}[/]", soft_wrap=True)
    for subject, reason in result.get("absent", {}).items():
        console.print(f"[yellow]{escape(f'{subject} is absent: {reason}')}[/]", soft_wrap=True)


def _throughput_row(summary: Mapping[str, Any]) -> Json:
    def scaled(key: str, factor: float, digits: int) -> float | None:
        value = summary.get(key)
        return None if value is None else round(value * factor, digits)

    return {
        "per second": scaled("per_second", 1, 0),
        "/ nginx": scaled("ratio_to_nginx", 1, 2),
        "/ naive": scaled("ratio_to_naive", 1, 1),
        "/ direct": scaled("ratio_to_direct", 1, 2),
        "CPU µs each": scaled("cpu_us_per_request", 1, 1),
        "nginx's / own": scaled("cpu_ratio_to_nginx", 1, 2),
        "busy %": scaled("worker_busy", 100, 0),
        "others %": scaled("others_busy", 100, 0),
        "p50 ms": scaled("p50_us", 1e-3, 2),
        "p99 ms": scaled("p99_us", 1e-3, 2),
        "RSS MB": scaled("rss_mb", 1, 0),
        "journal B each": scaled("journal_bytes_per_request", 1, 0),
        "errors": summary["errors"],
    }


def _round_values(row: Mapping[str, Any]) -> Json:
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}


def _rounded(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Json]:
    return {name: _round_values(row) for name, row in rows.items()}


def _table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    columns = list(next(iter(rows.values()), {}))
    for column in columns:
        table.add_column(column.removesuffix("_us").replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """One line per figure of "must reach" that this run measured or tried to."""
    styles = {"pass": "green", "MISS": "bold red", "absent": "yellow"}
    for each in verdicts:
        if each.value is None and each.why_absent == "not run":
            continue
        target = each.target
        wanted = f"{target.sense} {target.limit:g} {target.unit}".strip()
        got = each.why_absent if each.value is None else f"{each.value:,.3g} {target.unit}".strip()
        console.print(
            f"[{styles[each.word]}]{each.word:<6}[/] {target.label}: {got} (must be {wanted})", highlight=False
        )


def save(path: Path, document: Json, verdicts: Sequence[Verdict]) -> None:
    """Write a run's figures as JSON."""
    lines = [
        {"key": each.target.key, "label": each.target.label, "value": each.value, "sense": each.target.sense}
        | {"limit": each.target.limit, "unit": each.target.unit, "verdict": each.word}
        for each in verdicts
        if each.value is not None or each.why_absent != "not run"
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT_VERSION, **document, "must_reach": lines}, indent=1) + "\n")
