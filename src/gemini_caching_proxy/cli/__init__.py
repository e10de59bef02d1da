"""The command line: `gemini-proxy COMMAND`.

Exit codes: 0 fine · 1 a problem was found, or what was asked for does not exist · 2 wrong usage or setting · 3 the data
folder is in use · 4 the time ran out · 130 interrupted. No traceback reaches a user unless `GEMINI_PROXY_DEBUG=1`. Each
command's module is loaded when the command is called, so help and lists start fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from gemini_caching_proxy.errors import ConfigError, FolderInUse, NotFound, ProxyError

from .commands import CommandGroup
from .terminal import complain

EXIT_OK, EXIT_PROBLEM, EXIT_USAGE, EXIT_IN_USE, EXIT_TIMEOUT, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130
PROGRAM = "gemini-proxy"
DEBUG_VARIABLE = "GEMINI_PROXY_DEBUG"

app = typer.Typer(
    name=PROGRAM,
    cls=CommandGroup,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _program() -> None:
    """Forward every call to the Gemini API, stream it back untouched, and keep a record of all of it.

    Start with `gemini-proxy serve`, or `gemini-proxy demo` for a look without key or network.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if os.environ.get(DEBUG_VARIABLE) == "1":
        return _run(given)
    try:
        return _run(given)
    except Exception as error:  # noqa: BLE001 - the outermost ring: people get a sentence, not a traceback
        complain(f"Something went wrong inside: {type(error).__name__}: {error}", f"{DEBUG_VARIABLE}=1 shows where.")
        return EXIT_PROBLEM


def _run(arguments: list[str]) -> int:
    try:
        program = typer.main.get_command(app)
        with program.make_context(PROGRAM, arguments) as context:
            program.invoke(context)
        sys.stdout.flush()
        return EXIT_OK
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        complain(error.format_message(), f"`{command} --help` tells more.")
        return error.exit_code
    except FolderInUse as error:
        complain(str(error))
        return EXIT_IN_USE
    except ConfigError as error:
        complain(str(error))
        return EXIT_USAGE
    except ProxyError as error:
        complain(str(error) or _name(error))
        return EXIT_PROBLEM
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain at exit when it flushes into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _name(error: ProxyError) -> str:
    return "No such exchange." if isinstance(error, NotFound) else f"{type(error).__name__}."


__all__ = ["EXIT_INTERRUPTED", "EXIT_IN_USE", "EXIT_OK", "EXIT_PROBLEM", "EXIT_TIMEOUT", "EXIT_USAGE", "app", "main"]
