"""Proxies on one store can be told apart, and see the same credential as the same."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from gemini_caching_proxy.app import make_redactor
from gemini_caching_proxy.instance import INSTANCE_FILE, agree_on_fingerprints, instance_name
from gemini_caching_proxy.settings import Settings, load_settings
from mongod import Database


def test_a_name_lasts(tmp_path: Path) -> None:
    name = instance_name(tmp_path / "a")
    assert instance_name(tmp_path / "a") == name
    assert instance_name(tmp_path / "b") != name
    assert stat.S_IMODE((tmp_path / "a" / INSTANCE_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["", "zz", "0" * 17])
def test_a_damaged_name_is_made_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / INSTANCE_FILE).write_text(damage)
    name = instance_name(tmp_path)
    assert len(name) == 16
    assert instance_name(tmp_path) == name


def settings_in(folder: Path, store: str) -> Settings:
    return load_settings(data_dir=folder, store=store)


def fingerprint(settings: Settings) -> bytes:
    return make_redactor(settings).fingerprint(b"the key of a client")


def test_proxies_on_one_store_agree(tmp_path: Path, mongod: Database) -> None:
    first, second, third = (settings_in(tmp_path / name, mongod.uri) for name in "abc")
    own = fingerprint(first)
    for settings in (first, second):
        asyncio.run(agree_on_fingerprints(settings))
    assert fingerprint(first) == fingerprint(second) == own
    assert fingerprint(third) != own


def test_with_the_store_away_each_works_by_itself(tmp_path: Path) -> None:
    away = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    settings = settings_in(tmp_path, away)
    asyncio.run(agree_on_fingerprints(settings))
    assert fingerprint(settings) == fingerprint(settings_in(tmp_path, "sqlite"))


def test_an_embedded_store_needs_no_agreement(tmp_path: Path) -> None:
    asyncio.run(agree_on_fingerprints(settings_in(tmp_path, "sqlite")))
    assert list(tmp_path.iterdir()) == []
