"""`serve` and `demo`: what runs until it is told to stop."""

from __future__ import annotations

import typer

from .. import supervisor
from ..settings import Settings
from .flags import SETTINGS
from .options import with_options


@with_options(settings=SETTINGS)
def serve(settings: Settings) -> None:
    """Run the proxy until Ctrl-C or SIGTERM.

    Every flag is also a setting in the environment or in a file `.env` in the working directory; flags win over the
    environment, the environment wins over the file.
    """
    code = supervisor.run(settings)
    if code:
        raise typer.Exit(code)
