"""Names of stores, as settings and flags have them. No I/O, and no library of any database."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

MONGODB_SCHEMES = ("mongodb://", "mongodb+srv://")


def is_mongodb(name: str) -> bool:
    """Whether a store of this name is a MongoDB."""
    return name.startswith(MONGODB_SCHEMES)


def shown_uri(uri: str) -> str:
    """The URI as it may be shown: without user, password and options."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = rest.partition("?")[0].rpartition("@")[2].partition("/")
    return f"{scheme}://{authority}{slash}{path}"


def password_of(uri: str) -> str | None:
    """The password in a URI, as the server gets it; None for none."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        return None
    return None if password is None else unquote(password)
