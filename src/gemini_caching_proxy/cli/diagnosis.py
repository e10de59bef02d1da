"""`doctor` and `version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import typer
from rich.text import Text

from gemini_caching_proxy import __version__
from gemini_caching_proxy.clients import CLIENTS, remark_at
from gemini_caching_proxy.doctor import Finding, base_url, examine
from gemini_caching_proxy.settings import Settings
from gemini_caching_proxy.storage import is_shared, sharding_commands
from gemini_caching_proxy.stores.sqlite import sqlite_version

from .flags import SETTINGS
from .options import JSON, Bundle, option, refuse, with_options
from .terminal import one_line, output, say, write_json

_SIGNS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "problem": ("✗", "bold red")}

OFFLINE = Bundle(
    (option("offline", bool, "Do not call the upstream.", "--offline"),), lambda values: bool(values["offline"])
)


SHARDING = Bundle(
    (
        option(
            "sharding", bool, "Print the commands that spread a MongoDB store over shards, and do nothing else.",
            "--sharding",
        ),
    ),
    lambda values: bool(values["sharding"]),
)  # fmt: skip


@with_options(offline=OFFLINE, sharding=SHARDING, json=JSON, settings=SETTINGS)
async def doctor(settings: Settings, offline: bool, sharding: bool, json: bool) -> None:
    """Check the setup and print the exact setting for each client.

    The exit code is 1 if there is a problem. It takes the flags of `serve`, to try them.
    """
    if sharding:
        if not is_shared(settings):
            raise refuse("--sharding", "is for a MongoDB store: give --store mongodb://… as well")
        say(*sharding_commands(settings))
        return
    findings = await examine(settings, upstream=not offline)
    url = base_url(settings)
    if json:
        for finding in findings:
            write_json(
                {"check": finding.check, "outcome": finding.outcome, "text": finding.text, "advice": finding.advice}
            )
        for client in CLIENTS:
            write_json({"client": client.client, "settings": list(client.at(url)), "remark": remark_at(client, url)})
    else:
        _print(findings, url)
    if any(finding.outcome == "problem" for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding], url: str) -> None:
    console = output()
    for finding in findings:
        sign, style = _SIGNS[finding.outcome]
        line = Text(f"{sign} ", style).append(f"{finding.check:<11}", "dim").append(one_line(finding.text, 2000))
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"  {'':<11}{one_line(finding.advice)}", "dim"), soft_wrap=True)
    console.print(Text("\nPoint a client at the proxy:", "bold"))
    for client in CLIENTS:
        console.print(Text(f"\n{client.client}", "cyan"))
        # Long lines stay whole, so that they can be copied.
        for line_ in client.at(url):
            console.print(Text(f"  {line_}"), soft_wrap=True)
        if client.remark:
            console.print(Text(f"  ({remark_at(client, url)})", "dim"), soft_wrap=True)


@with_options(json=JSON)
def version(json: bool) -> None:
    """Print the versions in use."""
    facts = {
        "gemini-caching-proxy": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite_version(),
        "uvloop": version_of("uvloop"),
        "httptools": version_of("httptools"),
        "genai-prices": version_of("genai-prices"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if json:
        write_json(facts)
    else:
        say(*(f"{name:<22}{value}" for name, value in facts.items()))
