"""The documents say what the program does: made from it, or compared with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gemini_caching_proxy import __version__, errors
from gemini_caching_proxy.cli.commands import COMMANDS
from gemini_caching_proxy.cli.flags import variable_of
from gemini_caching_proxy.cli.manual import commands_page, environment_page, formats_table
from gemini_caching_proxy.clients import CLIENTS
from gemini_caching_proxy.exchange import FailureKind
from gemini_caching_proxy.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "gemini_caching_proxy"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_manual_of_commands_is_up_to_date() -> None:
    assert text("docs/cli.md") == commands_page(), "run `make docs`"


def test_the_example_of_settings_is_up_to_date() -> None:
    assert text(".env.example") == environment_page(), "run `make docs`"


def test_every_setting_is_in_the_example_and_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = text(".env.example").splitlines()
    assignments = [line.removeprefix("# ") for line in lines if re.match(r"# [A-Z_]+=", line)]
    assert [line.split("=")[0] for line in assignments] == [variable_of(name) for name in _in_order(assignments)]
    assert len(assignments) == len(Settings.model_fields)
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)
    # A cassette would need other settings beside it.
    (tmp_path / ".env").write_text("\n".join(line for line in assignments if "_CASSETTE=" not in line))
    settings = load_settings()
    assert settings.port == 8000
    assert settings.allowed_hosts == ("gemini.example.com", "my-laptop.local")


def _in_order(assignments: list[str]) -> list[str]:
    names = {variable_of(name): name for name in Settings.model_fields}
    return [names[line.split("=")[0]] for line in assignments]


def test_every_setting_has_a_description_that_is_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_readme_shows_every_command() -> None:
    for name in COMMANDS:
        assert f"`{name}`" in text("README.md") or f"gemini-proxy {name}" in text("README.md"), name


def test_every_client_has_its_setting_in_the_documents() -> None:
    page = text("docs/clients.md")
    for client in CLIENTS:
        assert client.client in page
        for line in client.at("http://127.0.0.1:8000"):
            assert line in page, line


def test_every_known_format_is_in_the_documents() -> None:
    assert formats_table() in text("docs/redaction.md")


def test_every_failure_and_error_token_is_in_the_documents() -> None:
    page = text("docs/architecture.md")
    for kind in FailureKind:
        assert f"`{kind.value}`" in page
    tokens = {one.proxy_status for one in _all_subclasses(errors.WireError) if one.proxy_status}
    for token in tokens:
        assert f"`{token}`" in page


def _all_subclasses(cls: type[errors.WireError]) -> set[type[errors.WireError]]:
    return {cls}.union(*(_all_subclasses(one) for one in cls.__subclasses__()))


def test_every_module_stands_in_the_picture_of_the_house() -> None:
    page = text("docs/architecture.md")
    for path in PACKAGE.iterdir():
        if path.name.startswith("__") or path.suffix not in (".py", "") or path.name == "__pycache__":
            continue
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in page, path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        content = (page.parent / target).read_text() if target else page.read_text()
        headings = re.findall(r"^#+ (.+)$", content, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def test_the_changelog_knows_the_version() -> None:
    page = text("CHANGELOG.md")
    assert "## [Unreleased]" in page
    assert __version__ == re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.MULTILINE)[1]


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z]+)", page.read_text())) <= targets
