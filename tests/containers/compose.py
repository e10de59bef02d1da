"""Reads a compose file as Compose does: anchors merged, then variables put in (`${NAME:-else}`, `${NAME:+then}`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.replicas.yml")
_NAME = re.compile(r"\$\{(?P<name>\w+)(?P<operator>:[-+])?")


def read_compose(name: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document that Compose would work with, in an environment that holds just these variables."""
    document = yaml.safe_load((ROOT / name).read_text())
    found: dict[str, Any] = _fill(document, variables or {})
    return found


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolated(value, variables)
    if isinstance(value, list):
        return [_fill(each, variables) for each in value]
    if isinstance(value, dict):
        return {key: _fill(each, variables) for key, each in value.items()}
    return value


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """The text with its variables put in; forms that our files do not use raise ValueError."""
    done = ""
    while "$" in text:
        before, _, _ = text.partition("$")
        done, text = done + before, text[len(before) :]
        opening = _NAME.match(text)
        if opening is None:
            raise ValueError(f"unknown form: {text}")
        end = _closing_brace(text)
        given, rest = variables.get(opening["name"], ""), text[opening.end() : end]
        if opening["operator"] is None and rest:
            raise ValueError(f"unknown form: {text}")
        if opening["operator"] == ":-":
            done += given or interpolated(rest, variables)
        elif opening["operator"] == ":+":
            done += interpolated(rest, variables) if given else ""
        else:
            done += given
        text = text[end + 1 :]
    return done + text


def _closing_brace(text: str) -> int:
    """Where the `${` that the text begins with ends."""
    depth = 0
    for index, sign in enumerate(text):
        if text.startswith("${", index):
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                return index
    raise ValueError(f"no closing brace: {text}")
