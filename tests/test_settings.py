from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.settings import ENV_PREFIX, Settings, is_loopback, load_settings

KEY = "AQ.demo-settings-key"


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GEMINI_", ENV_PREFIX)):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_work_and_listen_on_loopback() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.gemini_base_url == "https://generativelanguage.googleapis.com"
    assert settings.sqlite_path == settings.data_dir / "exchanges.sqlite3"
    assert settings.journal_dir == settings.data_dir / "journal"
    assert not settings.data_dir.is_relative_to(Path.cwd())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "GEMINI_PROXY_GEMINI_API_KEY"])
def test_the_key_is_read_and_not_shown(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, KEY)
    settings = load_settings()
    assert settings.gemini_api_key is not None
    assert settings.gemini_api_key.get_secret_value() == KEY
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json()


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "")
    assert load_settings().gemini_api_key is None


def test_a_bad_key_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(gemini_api_key=["AQ.demo", "two"])
    assert "AQ.demo" not in str(raised.value)


@pytest.mark.parametrize(("text", "hosts"), [("", ()), ("a", ("a",)), (" a , b,,", ("a", "b"))])
def test_lists_are_separated_by_commas(text: str, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_PROXY_ALLOWED_HOSTS", text)
    assert load_settings().allowed_hosts == hosts


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"port": "x"}, "--port / GEMINI_PROXY_PORT (got 'x')"),
        ({"port": 65536}, "--port"),
        ({"workers": 0}, "--workers"),
        ({"gemini_base_url": "ftp://x"}, "--gemini-base-url"),
        ({"gemini_base_url": "http://user:pw@x"}, "--gemini-base-url"),
        ({"gemini_base_url": "http://x?y=1"}, "--gemini-base-url"),
        ({"gemini_base_url": "http://x:99999"}, "--gemini-base-url"),
        ({"public_url": "nonsense"}, "--public-url"),
        ({"store": "mysql://x"}, "--store"),
        ({"cache": "sometimes"}, "--cache"),
        ({"idle_timeout": 0}, "--idle-timeout"),
        ({"journal_max_bytes": 1}, "--journal-max-bytes"),
        ({"tls_cert": "/x"}, "tls_cert and tls_key go together"),
        ({"host": "0.0.0.0"}, "allow_remote"),
    ],
)
def test_what_cannot_work_is_one_sentence_that_names_it(given: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(**given)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


def test_other_machines_need_consent() -> None:
    assert load_settings(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"
    assert load_settings(host="::1").host == "::1"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("example.com", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_paths_are_made_whole(tmp_path: Path) -> None:
    assert load_settings(data_dir="here").data_dir == tmp_path / "here"
    assert load_settings(data_dir="~/x").data_dir == Path.home() / "x"
    assert load_settings(store=f"sqlite:///{tmp_path}/a.db").sqlite_path == tmp_path / "a.db"


def test_a_base_url_loses_its_final_slash() -> None:
    assert load_settings(gemini_base_url="https://x/gateway/").gemini_base_url == "https://x/gateway"


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "\x01")
    with pytest.raises(ValidationError) as raised:
        Settings()
    named = {str(problem["loc"][0]).lower().removeprefix(ENV_PREFIX.lower()) for problem in raised.value.errors()}
    texts = {
        "host",
        "data_dir",
        "allowed_hosts",
        "allowed_origins",
        "record_headers",
        "tls_cert",
        "tls_key",
        "upstream_ca",
        "cassette",
        "cache_routes",
        "cache_ttl",
        "cache_finish_reasons",
        "cache_normalisers",
        "cache_patterns",
    }
    assert named == set(Settings.model_fields) - texts - {"gemini_api_key"}
