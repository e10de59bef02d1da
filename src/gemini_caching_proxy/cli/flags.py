"""A flag for every setting, made from the settings' own fields, so that the two cannot drift apart."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from gemini_caching_proxy.settings import ENV_PREFIX, MIB, Settings

from .options import Bundle, read_settings

SECTIONS: dict[str, tuple[str, ...]] = {
    "Listening": (
        "host",
        "port",
        "workers",
        "allow_remote",
        "public_url",
        "allowed_hosts",
        "allowed_origins",
        "tls_cert",
        "tls_key",
    ),
    "Upstream": ("gemini_base_url", "gemini_api_key", "upstream_ca", "client_gone"),
    "Record": (
        "data_dir",
        "store",
        "record",
        "max_body_bytes",
        "body_head_bytes",
        "journal_max_bytes",
        "journal_sync_ms",
        "journal_full",
        "redact_bodies",
        "record_headers",
    ),
    "Cache": (
        "cache",
        "cache_routes",
        "cache_ttl",
        "cache_namespace",
        "cache_dependent",
        "cache_finish_reasons",
        "cache_normalisers",
        "cache_patterns",
        "cache_replay_errors",
        "cache_lookup_ms",
        "cache_memory_bytes",
        "cache_max_body_bytes",
        "cassette",
    ),
    "Limits": ("max_header_bytes", "max_header_fields", "max_target_bytes", "max_connections"),
    "Deadlines": (
        "header_timeout",
        "body_timeout",
        "keepalive_timeout",
        "write_timeout",
        "connect_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "upstream_keepalive",
        "drain_timeout",
    ),
    "Logging": ("log_level", "log_format"),
}
"""The settings by theme, in the order in which help and documents show them."""

OTHER_SECTION = "More"
_METAVARS: dict[type, str] = {int: "NUMBER", float: "SECONDS", Path: "PATH"}
_CAUTIONS = {"gemini_api_key": " Prefer the variable: others on this machine can see flags."}


def sections() -> dict[str, tuple[str, ...]]:
    """`SECTIONS`, and under "More" whatever field none of them names yet."""
    named = {name for names in SECTIONS.values() for name in names}
    rest = tuple(name for name in Settings.model_fields if name not in named)
    return {**SECTIONS, **({OTHER_SECTION: rest} if rest else {})}


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return "GEMINI_API_KEY" if name == "gemini_api_key" else ENV_PREFIX + name.upper()


def default_text(name: str, field: FieldInfo) -> str:
    """A setting's default as one writes it; empty for none."""
    if name == "data_dir":
        return "the user's data folder"
    value = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, int) and value >= MIB and value % MIB == 0:
        return f"{value} ({value // MIB} MiB)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def help_text(name: str, field: FieldInfo) -> str:
    """What a setting does, its default and its variable."""
    default = default_text(name, field)
    facts = "; ".join(filter(None, (f"default {default}" if default else "", variable_of(name))))
    description = " ".join((field.description or "").split())
    return f"{description}{_CAUTIONS.get(name, '')} ({facts})"


def _parameter(name: str, field: FieldInfo, section: str) -> inspect.Parameter:
    switch = field.annotation is bool
    # Values stay text: the settings themselves read and check them, and say in one sentence what is wrong.
    info = typer.Option(
        f"{flag_of(name)}/--no-{flag_of(name)[2:]}" if switch else flag_of(name),
        help=help_text(name, field).replace("[", "\\["),
        rich_help_panel=section,
        show_default=False,
        metavar=None if switch else _metavar(field.annotation),
    )
    kind: Any = bool if switch else str
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "LIST"
    kinds = (annotation, *get_args(annotation))
    return next((word for kind, word in _METAVARS.items() if kind in kinds), "TEXT")


SETTINGS = Bundle(
    tuple(
        _parameter(name, Settings.model_fields[name], section)
        for section, names in sections().items()
        for name in names
    ),
    read_settings,
)


def some_settings(*names: str) -> Bundle:
    """The flags of these settings, for a command that needs no others."""
    return Bundle(tuple(one for one in SETTINGS.parameters if one.name in names), read_settings)
