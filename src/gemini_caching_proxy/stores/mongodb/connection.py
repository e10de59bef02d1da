"""Reaching the server: one client per store, and every error of its library as one of ours.

What a user reads of an error never holds a password: it names hosts and database alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from gemini_caching_proxy.errors import StoreUnavailable
from gemini_caching_proxy.locations import shown_uri

DATABASE = "gemini_proxy"
"""Where the URI names none."""
OLDEST_SERVER = (5, 0)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict, tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
REACH_MS = 3000
"""To find a server that answers; what is in the URI counts more."""
PATIENCE_MS = 10_000
"""For one operation, its retries included."""
LONGEST_REASON = 200

_URI_ADVICE = "Write mongodb://user:password@host:27017/gemini_proxy, with %40 for @, %3A for : and %2F for / in it."
_NO_LOGIN_ADVICE = "Write user and password into GEMINI_PROXY_STORE: mongodb://user:password@host:27017/gemini_proxy."
_LOGIN_ADVICE = (
    "Check user and password in GEMINI_PROXY_STORE; add ?authSource=admin if the user was made in the database admin."
)
RIGHTS_ADVICE = 'In mongosh, as an administrator: db.grantRolesToUser("USER", [{role: "readWrite", db: "DATABASE"}])'
_REACH_ADVICE = (
    "Check that MongoDB runs there and can be reached from here: host, port, firewall, tls=true where it wants TLS."
)

Document = dict[str, Any]
Database = AsyncDatabase[Document]
Client = AsyncMongoClient[Document]

DUPLICATE_KEY = 11000
_UNAUTHORIZED, _LOGIN_REFUSED = 13, 18
_DOCUMENT_FAULTS = frozenset({2, 121, 10334, 17280, 17419, 17420})
"""Codes that blame the document: a bad value, the validator, its size."""


def make_client(uri: str) -> Client:
    """A client that has not connected yet. Raises StoreUnavailable for a URI that is none."""
    with store_errors(uri):
        return AsyncMongoClient(
            uri,
            document_class=dict,
            tz_aware=True,
            uuidRepresentation="standard",
            w="majority",
            journal=True,
            **_unless_given(uri, {"appname": "gemini-proxy", "serverSelectionTimeoutMS": REACH_MS,
                "connectTimeoutMS": REACH_MS, "timeoutMS": PATIENCE_MS}),
        )  # fmt: skip


def _unless_given(uri: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name.lower() for name, _ in parse_qsl(uri.partition("?")[2], keep_blank_values=True)}
    return {name: value for name, value in options.items() if name.lower() not in given}


def database_of(client: Client) -> Database:
    """The database that the URI names, always as its primary has it: answers must not go back in time."""
    return client.get_default_database(DATABASE, codec_options=CODEC, read_preference=ReadPreference.PRIMARY)


def unwaiting(database: Database) -> Database:
    """The same, for writes that a later one follows which waits until it is in the server's own journal.

    That journal is one sequence: what is in it makes everything before it lasting too. A replica set waits all the same
    (its majority is one of journals), for a step may follow on another primary.
    """
    return database.with_options(write_concern=WriteConcern("majority"))


async def at_once(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """What these give, run side by side to the end of each. Raises what the first of them did that failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Raise StoreUnavailable for what keeps the server from serving us; faults of a document pass as they are."""
    try:
        yield
    except (DocumentTooLarge, InvalidDocument):
        raise
    except PyMongoError as error:
        if blames_document(error):
            raise ValueError(f"MongoDB refuses a document: {_reason(error)}") from None
        raise _trouble(error, shown_uri(uri)) from None
    except (ValueError, TypeError) as error:
        # What PyMongo says of options of a URI; of documents it says the errors above.
        if not _is_of_uri(error):
            raise
        raise StoreUnavailable(
            f"The store's MongoDB URI cannot be used: {_without_secrets(str(error), uri)}.", _URI_ADVICE
        ) from None


def blames_document(error: PyMongoError) -> bool:
    """Whether trying again cannot help, for it is the document that the server does not take."""
    if isinstance(error, BulkWriteError):
        faults = error.details.get("writeErrors", ()) if error.details else ()
        return any(fault.get("code") in _DOCUMENT_FAULTS for fault in faults)
    return isinstance(error, OperationFailure) and error.code in _DOCUMENT_FAULTS


def _is_of_uri(error: Exception) -> bool:
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    module = frames.tb_frame.f_globals.get("__name__", "") if frames is not None else ""
    return module.startswith("pymongo") and not module.startswith("pymongo.synchronous.bulk")


def _trouble(error: PyMongoError, name: str) -> StoreUnavailable:
    reason = _reason(error)
    if isinstance(error, InvalidURI | InvalidName):
        return StoreUnavailable(f"{name} is no MongoDB URI: {reason}.", _URI_ADVICE)
    if isinstance(error, ConfigurationError):
        if "wire version" in str(error):
            return too_old(name, reason)
        return StoreUnavailable(f"{name} cannot be used: {reason}.", _URI_ADVICE)
    if isinstance(error, BulkWriteError):
        return StoreUnavailable(f"{name} did not take everything: {_bulk_reason(error)}.")
    if isinstance(error, ExecutionTimeout):
        return StoreUnavailable(f"{name} did not answer in time.")
    if isinstance(error, OperationFailure):
        return _refusal(error, name, reason)
    if isinstance(error, ServerSelectionTimeoutError):
        return StoreUnavailable(f"{name} cannot be reached: {reason}.", _REACH_ADVICE)
    if isinstance(error, AutoReconnect):
        return StoreUnavailable(f"The connection to {name} broke: {reason}.", _REACH_ADVICE)
    return StoreUnavailable(f"{name} cannot be used: {reason}.")


def _refusal(error: OperationFailure, name: str, reason: str) -> StoreUnavailable:
    if error.code == _LOGIN_REFUSED:
        return StoreUnavailable(f"{name} refuses the login: user, password or authSource is wrong.", _LOGIN_ADVICE)
    if error.code == _UNAUTHORIZED and "requires authentication" in reason:
        return StoreUnavailable(f"{name} asks for a login, and the store's URI has none.", _NO_LOGIN_ADVICE)
    if error.code == _UNAUTHORIZED:
        return StoreUnavailable(
            f"{name}: the user lacks rights ({reason}): it needs the role readWrite on the database.", RIGHTS_ADVICE
        )
    return StoreUnavailable(f"{name} refuses: {reason}.")


def too_old(name: str, what: str) -> StoreUnavailable:
    """A server older than `OLDEST_SERVER`."""
    oldest = ".".join(map(str, OLDEST_SERVER))
    return StoreUnavailable(
        f"{name} is too old: {what}; MongoDB {oldest} or newer is needed.", f"Upgrade it to {oldest} or newer."
    )


def _reason(error: PyMongoError) -> str:
    details = error.details if isinstance(error, OperationFailure) else None
    text = str((details or {}).get("errmsg") or error)
    for end in (" (configured timeouts", ", Timeout:", ", full error:", " to execute command", "\n"):
        text = text.partition(end)[0]
    return text[:LONGEST_REASON].rstrip(". ") or type(error).__name__


def _bulk_reason(error: BulkWriteError) -> str:
    details = error.details or {}
    for fault in (*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())):
        if fault.get("code") != DUPLICATE_KEY:
            return str(fault.get("errmsg", ""))[:LONGEST_REASON].rstrip(". ")
    return "no reason given"


def _without_secrets(text: str, uri: str) -> str:
    parts = urlsplit(uri)
    for secret in filter(None, (uri, parts.netloc.rpartition("@")[0], parts.password)):
        text = text.replace(secret, "…")
    return text[:LONGEST_REASON].rstrip(". ")


def duplicates(error: BulkWriteError) -> list[int]:
    """Numbers of the documents that were there already. Raises the error again if anything else was wrong."""
    details = error.details or {}
    faults = details.get("writeErrors", ())
    if details.get("writeConcernErrors") or any(fault.get("code") != DUPLICATE_KEY for fault in faults):
        raise error
    return [fault["index"] for fault in faults]


def only_duplicates(error: BulkWriteError) -> int:
    """As `duplicates`: how many."""
    return len(duplicates(error))
