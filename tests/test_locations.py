"""Names of stores show no secrets."""

from __future__ import annotations

import pytest

from gemini_caching_proxy.locations import is_mongodb, password_of, shown_uri


@pytest.mark.parametrize(
    ("uri", "shown", "password"),
    [
        ("mongodb://h", "mongodb://h", None),
        ("mongodb://u:pass%40word@h:1,i:2/db?authSource=admin", "mongodb://h:1,i:2/db", "pass@word"),
        ("mongodb+srv://u:p@cluster.example/db", "mongodb+srv://cluster.example/db", "p"),
        ("mongodb://u@h/?x=y:z@w", "mongodb://h/", None),
        ("mongodb://u:p@q@h/db", "mongodb://h/db", "p@q"),
        ("mongodb://u:p/w@h/db", "mongodb://h/db", None),
        ("sqlite:///a/b", "sqlite:///a/b", None),
        ("sqlite", "sqlite", None),
    ],
)
def test_neither_user_nor_password_is_shown(uri: str, shown: str, password: str | None) -> None:
    assert shown_uri(uri) == shown
    assert password_of(uri) == password
    assert is_mongodb(uri) == uri.startswith("mongodb")
