"""The manual pages that are made from the program itself: `docs/cli.md` and `.env.example`.

`python -m gemini_caching_proxy.cli.manual commands|environment` prints one; a test compares them with the files.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from gemini_caching_proxy.exchange import Body, CacheUse, Chunk, Exchange, Price, Response, Timing, Usage, Verdict
from gemini_caching_proxy.explanation import Difference, Explanation, Nearest
from gemini_caching_proxy.providers.base import CacheSubject
from gemini_caching_proxy.redaction import DOCUMENTED_FORMATS
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.stores.base import CacheEntry, CacheStats, Hit, StatsRow, Summary
from gemini_caching_proxy.transfer import Comparison, Counts

from .commands import command_paths, load_command
from .copying import copy_record
from .explaining import explanation_record
from .flags import default_text, sections, variable_of
from .records import cache_stats_record, entry_record, exchange_record, hit_record, stats_record, summary_record
from .terminal import say

HEAD = """\
# The command line

Made from the program's own help by `make docs`; do not edit.

`gemini-proxy COMMAND --help` shows the same in a terminal. Settings come from a file `.env` in the working directory,
the environment and flags; what comes later in this list wins, and `.env.example` explains each. Every command that
looks at the record takes `--data-dir` and `--store` and works beside a running `serve`.

## Exit codes

| code | means |
|---|---|
| 0 | fine, also when nothing fits a filter |
| 1 | a problem was found, or the exchange that was asked for does not exist |
| 2 | wrong usage, or a setting that cannot work: one sentence names it |
| 3 | the data folder is in use by another process |
| 4 | the time given to `--timeout` ran out |
| 130 | interrupted by Ctrl-C |

No traceback is shown unless `GEMINI_PROXY_DEBUG=1`. There is no colour where output is no terminal, or with `NO_COLOR`.

## JSON lines

`--json` writes one object a line. Times are UTC, durations are in microseconds (`_us`), sizes in bytes, costs in
billionths of a US dollar (`_nanousd`). Unknown is `null`, never 0: an exchange without a known price is unpriced, not
free. Recorded text is escaped so that no line can steer a terminal. Names are stable: some may be added, none change.
"""

JSON_NOTES = {
    "list, tail": "A line is one exchange.",
    "search": "A line of `list`, and `snippet`: the text around a match, the match between U+0002 and U+0003.",
    "stats": "A line is one value of `--by`; without it there is one line and `key` is empty.",
    "show": (
        "The whole exchange. A body's `data` is text where it is UTF-8, else base64, as `encoding` says; `size_bytes` "
        "is what passed, `kept_bytes` what is recorded. A chunk is its offset and size. `failure` is null or "
        '`{"kind", "detail", "served_status", "partial"}`.'
    ),
    "cache list": (
        "A line is one entry. `cache show` adds `canonical`, as in `cache explain`, and `answer`, the answer's text."
    ),
    "cache stats": "Sums over all entries there are.",
    "cache explain": (
        "`verdict` is `hit`, `miss`, `stale` or `bypass`, as it would be now, and `why` the reason; `verdict_then` and "
        "`why_then` are what an exchange was told. `canonical` is null for what cannot be cached. `entry` is what the "
        "key finds, as in `cache list`; `nearest`, for a miss, what comes closest: how many values differ, and the "
        "JSON path of the first with both values."
    ),
    "copy": (
        "What was copied and what comparing found. `duplicates` were in the target already, `refused` could not be "
        "copied. `whole` exchanges were compared byte for byte, the others by their lines in lists. Under "
        "`other_answers` keys of the cache the target has an answer from elsewhere that is newer or pinned. `pruned` "
        "exchanges only live in the source's statistics. `examples` are the first of the `differences`."
    ),
    "export, import, replay": (
        "`export` writes `exchanges`, `bytes`, and in `left_out` how many were kept out for which reason; `import` "
        "writes `exchanges`, `added` and `duplicates`; `replay` writes `url` and `exchanges` as soon as it answers."
    ),
}


def commands_page() -> str:
    """`docs/cli.md`."""
    return (
        "\n".join([HEAD, *_json_examples(), "## Commands\n", *map(_command_section, command_paths())]).rstrip() + "\n"
    )


def environment_page() -> str:
    """`.env.example`."""
    lines = [
        "# Settings of gemini-proxy. Copy to `.env` in the directory from which it is started, and change what you",
        "# need. A flag wins over a variable of the environment, and that wins over this file; `gemini-proxy serve",
        "# --help` lists the flags. Each line shows the default, or an example where there is none.",
    ]
    for section, names in sections().items():
        lines += ["", f"# --- {section} ---"]
        for name in names:
            field = Settings.model_fields[name]
            lines += ["", *textwrap.wrap(field.description or "", 110, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"# {variable_of(name)}={_example(name)}")
    return "\n".join(lines) + "\n"


def formats_table() -> str:
    """The table in `docs/redaction.md`: what is found in bodies without being told."""
    rows = (f"| {name} | {_code(example)} |" for name, example, _ in DOCUMENTED_FORMATS)
    return "\n".join(["| credential | shape |", "|---|---|", *rows]) + "\n"


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


_EXAMPLES = {
    "data_dir": "~/.local/share/gemini-caching-proxy",
    "gemini_api_key": "",
    "public_url": "https://gemini.example.com/proxy",
    "allowed_hosts": "gemini.example.com,my-laptop.local",
    "allowed_origins": "https://app.example.com",
    "tls_cert": "/etc/ssl/proxy/fullchain.pem",
    "tls_key": "/etc/ssl/proxy/key.pem",
    "upstream_ca": "/etc/ssl/company-ca.pem",
    "record_headers": "x-request-id,x-team",
    "cache_routes": "embed_content=all,generate_content:gemini-3*=off",
    "cache_ttl": "generation=12h,list_models=0s",
    "cache_patterns": "build-[0-9]+ => build-N",
    "cassette": "tests/weather.cassette",
}


def _example(name: str) -> str:
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    return default_text(name, Settings.model_fields[name]).split(" (")[0]


def _command_section(name: str) -> str:
    command = load_command(name)
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    words = " ".join(["gemini-proxy", name, *(one.metavar or one.name.upper() for one in arguments), "[OPTIONS]"])
    lines = [f"### `{words}`", "", "\n\n".join(paragraphs), ""]
    lines += [f"`{one.metavar or one.name.upper()}`: {one.help}\n" for one in arguments]
    panels: dict[str, list[Any]] = {}
    for one in command.params:
        if one.param_type_name == "option":
            panels.setdefault(one.rich_help_panel or "Options", []).append(one)
    for panel in sorted(panels, key=lambda title: title != "Options"):
        lines += [f"| {panel} | |", "|---|---|", *map(_option_row, panels[panel]), ""]
    return "\n".join(lines)


def _option_row(option: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    metavar = f" `{option.metavar}`" if option.metavar else ""
    cells = (f"{flags}{metavar}", (option.help or "").replace("\\[", "["))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _json_examples() -> list[str]:
    samples = {
        "list, tail": summary_record(SUMMARY),
        "search": {"…": "as `list`", "snippet": hit_record(Hit(SUMMARY, "a \x02haiku\x03 about rain"))["snippet"]},
        "stats": stats_record(STATS, "model"),
        "show": exchange_record(EXCHANGE),
        "cache list": entry_record(ENTRY),
        "cache stats": cache_stats_record(CACHE_STATS),
        "cache explain": explanation_record(EXPLANATION, recorded=True),
        "copy": copy_record(*COPY),
        "export, import, replay": {"exchanges": 14, "bytes": 9421, "left_out": {"failed": 1}},
    }
    lines = []
    for commands, record in samples.items():
        text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
        text = text.replace("\x02", "\\u0002").replace("\x03", "\\u0003")
        lines += [f"### `--json` of {commands}", "", JSON_NOTES[commands], "", "```json", text, "```", ""]
    return lines


_ID = UUID("019a8c3e-7b1d-7c44-9a52-3f0e6d21b7a4")
_USAGE = Usage(input_tokens=12, cached_tokens=None, output_tokens=21, thoughts_tokens=64, total_tokens=97, raw=b"{}")
EXCHANGE = Exchange(
    id=_ID,
    started_ns=1_769_864_645_250_000_000,
    provider="gemini",
    operation="stream_generate_content",
    method="POST",
    target="/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
    upstream="https://generativelanguage.googleapis.com",
    outcome=Response(
        status=200,
        reason=b"OK",
        headers=((b"Content-Type", b"text/event-stream"),),
        body=Body(b"data: {}\r\n\r\n", 12, "5f0c", True, False),
        chunks=(Chunk(412_000, 12),),
    ),
    model="gemini-3.8-flash",
    model_version="gemini-3.8-flash",
    stream_shape="sse",
    client_address="127.0.0.1:51034",
    user_agent="google-genai-sdk/3.4.0 gl-python/3.11.7",
    credential="f1:7d0b5c9a",
    credential_source="client",
    request_headers=((b"Content-Type", b"application/json"),),
    request_body=Body(b'{"contents":[]}', 15, "a91e", True, False),
    timing=Timing(310, 1_900, 410_000, 412_000, 980_000),
    finish_reason="STOP",
    response_id="Zr1kabc",
    usage=_USAGE,
    price=Price(3_600, 212_500, 216_100, "gemini-3.8-flash"),
    conversation=_ID,
)
"""What the examples show."""

SUMMARY = Summary(
    id=_ID,
    sequence=1041,
    started_ns=EXCHANGE.started_ns,
    provider="gemini",
    operation=EXCHANGE.operation,
    method="POST",
    target=EXCHANGE.target,
    model=EXCHANGE.model,
    model_version=EXCHANGE.model_version,
    status=200,
    failure=None,
    finish_reason="STOP",
    stream_shape="sse",
    client_address=EXCHANGE.client_address,
    user_agent=EXCHANGE.user_agent,
    credential=EXCHANGE.credential,
    request_bytes=15,
    response_bytes=12,
    chunk_count=1,
    ttfb_us=410_000,
    ttft_us=412_000,
    duration_us=980_000,
    input_tokens=12,
    cached_tokens=None,
    output_tokens=21,
    thoughts_tokens=64,
    total_tokens=97,
    price_nanousd=216_100,
    conversation=_ID,
    parent=None,
    preview="Rain on the tin roof",
)

COPY = (
    "/home/me/.local/share/gemini-caching-proxy/exchanges.sqlite3",
    "mongodb://mongo.example.com/gemini_proxy",
    Counts(read=12_400, added=12_398, duplicates=2, bytes=310_400_000, gaps=1),
    Comparison(exchanges=12_400, whole=512, only_in_target=90, gaps=1, entries=2_150, pinned=3, pruned=0),
)
STATS = StatsRow(
    key="gemini-3.8-flash",
    exchanges=120,
    errors=3,
    input_tokens=48_000,
    cached_tokens=9_000,
    output_tokens=15_500,
    thoughts_tokens=7_000,
    total_tokens=70_500,
    priced=117,
    total_nanousd=61_200_000,
    request_bytes=812_000,
    response_bytes=240_000,
    duration_us_p50=900_000,
    duration_us_p95=4_100_000,
    duration_us_p99=9_000_000,
    ttft_us_p50=400_000,
    ttft_us_p95=1_200_000,
    ttft_us_p99=3_000_000,
)

ENTRY = CacheEntry(
    key=bytes.fromhex("6f2e51a07c33d94b8a1d0f5c2be97714"),
    exchange=_ID,
    kind="answer",
    stored_ns=EXCHANGE.started_ns + 980_000_000,
    provider="gemini",
    operation=EXCHANGE.operation,
    model=EXCHANGE.model,
    credential=EXCHANGE.credential,
    conversation=_ID,
    size=12,
    hits=3,
    last_hit_ns=EXCHANGE.started_ns + 3_600_000_000_000,
    saved_nanousd=648_300,
    saved_us=2_940_000,
)

CACHE_STATS = CacheStats(
    entries=412,
    errors=9,
    pinned=2,
    answer_bytes=1_870_000,
    hits=1_260,
    saved_nanousd=91_400_000,
    saved_us=1_310_000_000,
    oldest_ns=EXCHANGE.started_ns,
)

EXPLANATION = Explanation(
    exchange=replace(EXCHANGE, cache=CacheUse(Verdict.MISS)),
    mode="safe",
    verdict=Verdict.MISS,
    subject=CacheSubject("generate_content", "gemini-3.8-flash", "generation", b'{"contents":[]}'),
    key=bytes.fromhex("b07d93ce41fa2286d1c5a9e87f60b3d2"),
    ttl_s=604_800.0,
    nearest=Nearest(ENTRY, 1, Difference("contents[3].parts[0].text", '"…rain on Monday"', '"…rain on Friday"')),
)

PAGES = {"commands": commands_page, "environment": environment_page, "formats": formats_table}

if __name__ == "__main__":
    say(PAGES[sys.argv[1]]().rstrip("\n"))
