"""What a server and our user on it can do, for `doctor`: asked with commands that anybody may give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .connection import Document, database_of, make_client, store_errors
from .schema import check_server

NEEDED: Final = ("find", "insert", "update", "remove", "createCollection", "createIndex")
"""Actions of MongoDB's role `readWrite` without which nothing is recorded."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A server that answered."""

    version: str
    topology: str
    """`standalone`, `replica set NAME of N`, `sharded cluster`."""
    user: str | None
    """None: it asks nobody for a login."""
    database: str
    missing: tuple[str, ...]
    """Of `NEEDED`, what the user may not do."""


async def inspect(uri: str) -> Inspection:
    """Ask the server. Raises StoreUnavailable."""
    client = make_client(uri)
    try:
        with store_errors(uri):
            database = database_of(client)
            await check_server(database, uri)
            info = await client.server_info()
            hello = await client.admin.command("hello")
            status = await client.admin.command("connectionStatus", showPrivileges=True)
            login = status["authInfo"]
            users = [each["user"] for each in login["authenticatedUsers"]]
            allowed = _allowed(login.get("authenticatedUserPrivileges", ()), database.name)
            missing = tuple(each for each in NEEDED if users and each not in allowed)
            return Inspection(info["version"], _topology(hello), users[0] if users else None, database.name, missing)
    finally:
        await client.close()


def _topology(hello: Document) -> str:
    if hello.get("msg") == "isdbgrid":
        return "sharded cluster"
    if "setName" in hello:
        return f"replica set {hello['setName']} of {len(hello.get('hosts', ()))}"
    return "standalone"


def _allowed(privileges: Iterable[Document], database: str) -> set[str]:
    allowed: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        whole = resource.get("anyResource") or (
            resource.get("db") in ("", database) and resource.get("collection") == "" and "db" in resource
        )
        if whole:
            allowed.update(privilege["actions"])
    return allowed
