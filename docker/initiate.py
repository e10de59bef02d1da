"""Makes a replica set of MongoDB servers that are up: `initiate.py NAME HOST:PORT HOST:PORT …`.

It may run any number of times: servers that belong to the set already are left as they are. It ends when the set has a
primary, with exit code 0; with 1 when that takes longer than a minute or a server belongs to another set.
"""

# ruff: noqa: T201 - a program of its own, whose output is its log

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

SECONDS = 60.0
PAUSE_SECONDS = 0.5
CALL_MS = 5000
ALREADY_INITIALIZED = 23
"""Error code of `replSetInitiate` when somebody else was faster."""


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2:
        print("usage: initiate.py NAME HOST:PORT [HOST:PORT …]", file=sys.stderr)
        return 2
    name, members = arguments[0], arguments[1:]
    deadline = time.monotonic() + SECONDS
    trouble = "no attempt was made"
    while time.monotonic() < deadline:
        try:
            primary = initiate(name, members)
        except PyMongoError as error:
            trouble = str(error).partition(", Timeout:")[0]
        else:
            if primary:
                print(f"The replica set {name} is ready; {primary} is its primary.")
                return 0
            trouble = "no member is primary yet"
        time.sleep(PAUSE_SECONDS)
    print(f"The replica set {name} is not ready after {SECONDS:.0f} s: {trouble}.", file=sys.stderr)
    return 1


def initiate(name: str, members: Sequence[str]) -> str | None:
    """Make the set unless there is one; the address of its primary, None while it has none.

    Raises:
        PyMongoError: there is no set yet, and a server that is to be in it does not answer.
    """
    greetings, trouble = greetings_of(members)
    sets = {each["setName"] for each in greetings if "setName" in each}
    if sets - {name}:
        raise SystemExit(f"A server belongs to another replica set already: {', '.join(sorted(sets - {name}))}.")
    if sets:
        return next((str(each["primary"]) for each in greetings if "primary" in each), None)
    if trouble is not None:
        raise trouble
    configuration = {"_id": name, "members": [{"_id": i, "host": host} for i, host in enumerate(members)]}
    try:
        ask(members[0], "replSetInitiate", configuration)
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise
    return None


def greetings_of(members: Sequence[str]) -> tuple[list[dict[str, Any]], PyMongoError | None]:
    """What the servers that answer say, and why another does not."""
    found, trouble = [], None
    for member in members:
        try:
            found.append(greeting(member))
        except PyMongoError as error:
            trouble = error
    return found, trouble


def greeting(member: str) -> dict[str, Any]:
    """What a server says of itself and its set; it may be asked without a password."""
    return ask(member, "hello", 1)


def ask(member: str, command: str, value: Any) -> dict[str, Any]:
    with MongoClient[dict[str, Any]](
        f"mongodb://{member}/", directConnection=True, serverSelectionTimeoutMS=CALL_MS, socketTimeoutMS=CALL_MS
    ) as client:
        return client.admin.command(command, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
