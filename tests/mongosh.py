"""MongoDB's shell, for tests of what people do with it: the npm package `mongosh` of the optional `.venvs/node`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from bson.binary import UuidRepresentation
from bson.json_util import JSONOptions

PROGRAM = Path(__file__).parents[1] / ".venvs/node/node_modules/.bin/mongosh"
_OPTIONS = JSONOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)
_PRELUDE = "const told = (value) => print(EJSON.stringify(value));\n"


def need_mongosh() -> None:
    """Skip the test where there is none."""
    if not PROGRAM.exists() or not shutil.which("node"):
        pytest.skip("Node.js or its mongosh (make .venvs/node/stamp) is not installed")


def run_script(script: str, uri: str, folder: Path) -> list[Any]:
    """What a script says by `told(value)`; AssertionError if it fails.

    The shell has the folder as its home, asks nobody for news, and meets no settings of whoever runs the tests.
    """
    settings = folder / ".mongodb/mongosh/config"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"enableTelemetry": false, "disableLogging": true, "updateURL": ""}')
    file = folder / "script.js"
    file.write_text(_PRELUDE + script)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "CI": "1"}
    command = [str(PROGRAM), "--quiet", "--norc", uri, "--file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json_util.loads(line, json_options=_OPTIONS) for line in done.stdout.splitlines()]
