"""The settings name a store, and each kind is made of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.settings import Settings, load_settings
from gemini_caching_proxy.storage import is_shared, make_store, store_exists, store_name
from gemini_caching_proxy.stores.mongodb import MongoDBStore
from gemini_caching_proxy.stores.sqlite import SQLiteStore

SECRET_URI = "mongodb://someone:verysecret@db.example/records?tls=true"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEMINI_PROXY_STORE", raising=False)


def given(tmp_path: Path, store: str) -> Settings:
    return load_settings(data_dir=tmp_path / "data", store=store)


def test_an_embedded_store_is_a_file(tmp_path: Path) -> None:
    settings = given(tmp_path, "sqlite")
    assert isinstance(make_store(settings), SQLiteStore)
    assert not is_shared(settings)
    assert store_name(settings) == str(tmp_path / "data" / "exchanges.sqlite3")
    assert not store_exists(settings)


def test_a_uri_is_a_mongodb_and_shown_without_its_password(tmp_path: Path) -> None:
    settings = given(tmp_path, SECRET_URI)
    store = make_store(settings)
    assert isinstance(store, MongoDBStore)
    assert is_shared(settings)
    assert store_exists(settings)
    for shown in (store_name(settings), repr(store)):
        assert "mongodb://db.example/records" in shown
        assert "secret" not in shown
        assert "someone" not in shown


def test_another_scheme_is_refused_without_showing_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be `sqlite`") as failure:
        given(tmp_path, "mongo://someone:verysecret@db.example/records")
    assert "mongo://db.example/records" in str(failure.value)
    assert "verysecret" not in str(failure.value)
