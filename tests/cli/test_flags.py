from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemini_caching_proxy.cli.commands import load_command
from gemini_caching_proxy.cli.flags import SECTIONS, SETTINGS, default_text, flag_of, sections, variable_of
from gemini_caching_proxy.errors import ConfigError
from gemini_caching_proxy.settings import Settings


def values(**given: object) -> dict[str, object]:
    return {parameter.name: given.get(parameter.name) for parameter in SETTINGS.parameters}


def test_every_setting_stands_in_exactly_one_section() -> None:
    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(Settings.model_fields)
    assert sections() == SECTIONS


def test_serve_has_a_flag_for_every_setting_with_its_description() -> None:
    options = {option.name: option for option in load_command("serve").params}
    for name, field in Settings.model_fields.items():
        assert flag_of(name) in options[name].opts
        assert field.description
        assert " ".join(field.description.split()).split("[")[0] in options[name].help
        assert variable_of(name) in options[name].help


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("GEMINI_PROXY_PORT=1001\nGEMINI_PROXY_HOST=127.0.0.9\nGEMINI_PROXY_WORKERS=2\n")
    assert os.getcwd() == str(tmp_path)
    monkeypatch.setenv("GEMINI_PROXY_PORT", "1002")
    monkeypatch.setenv("GEMINI_PROXY_HOST", "127.0.0.8")
    settings = SETTINGS.make(values(port="1003"))
    assert (settings.port, settings.host, settings.workers) == (1003, "127.0.0.8", 2)


def test_switches_are_given_both_ways() -> None:
    assert SETTINGS.make(values(record=False)).record is False
    assert SETTINGS.make(values(allow_remote=True, host="0.0.0.0")).host == "0.0.0.0"
    options = {option.name: option for option in load_command("serve").params}
    assert options["record"].secondary_opts == ["--no-record"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "many"),
        ("port", "70000"),
        ("workers", "0"),
        ("client_gone", "sulk"),
        ("idle_timeout", "-1"),
        ("store", "x"),
    ],
)
def test_a_value_that_cannot_work_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag_of(name)} / {variable_of(name)}"):
        SETTINGS.make(values(**{name: value}))


def test_the_key_is_never_repeated() -> None:
    assert "AIza" not in str(SETTINGS.make(values(gemini_api_key="AIza-my-very-own")))
    options = {option.name: option for option in load_command("serve").params}
    assert "others on this machine can see flags" in options["gemini_api_key"].help


def test_defaults_are_written_as_one_types_them() -> None:
    fields = Settings.model_fields
    assert default_text("port", fields["port"]) == "8000"
    assert default_text("record", fields["record"]) == "true"
    assert default_text("idle_timeout", fields["idle_timeout"]) == "300"
    assert default_text("max_body_bytes", fields["max_body_bytes"]) == "67108864 (64 MiB)"
    assert default_text("tls_cert", fields["tls_cert"]) == ""
