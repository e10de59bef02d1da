"""`serve` and `demo`: what runs until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from gemini_caching_proxy import demo as demonstration
from gemini_caching_proxy import supervisor
from gemini_caching_proxy.settings import Settings

from .flags import SETTINGS
from .options import Bundle, option, with_options
from .terminal import say


@with_options(settings=SETTINGS)
def serve(settings: Settings) -> None:
    """Run the proxy until Ctrl-C or SIGTERM.

    Every flag is also a setting in the environment or in a file `.env` in the working directory; flags win over the
    environment, the environment wins over the file.
    """
    code = supervisor.run(settings)
    if code:
        raise typer.Exit(code)


DEMO = Bundle(
    (
        option("data_dir", str, "Folder to record in; a new temporary one by default.", "--data-dir", metavar="PATH"),
        option("once", bool, "End after the traffic instead of serving on.", "--once"),
    ),
    dict,
)


@with_options(choices=DEMO)
def demo(choices: dict[str, Any]) -> None:
    """Try everything with a simulated Gemini: no key, no network.

    Starts a simulated Gemini API and the proxy on free ports, sends a lively mix of calls through it, prints what to
    look at, and serves on until Ctrl-C.
    """
    folder = Path(choices["data_dir"]).expanduser().absolute() if choices["data_dir"] else None
    demonstration.run(folder, once=choices["once"], say=_say_now)


def _say_now(text: str) -> None:
    say(text)
    sys.stdout.flush()
