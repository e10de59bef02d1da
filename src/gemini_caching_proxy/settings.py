"""Every setting, once: `.env` < environment < flags.

A setting `max_body_bytes` is the flag `--max-body-bytes` and the variable `GEMINI_PROXY_MAX_BODY_BYTES`.
Validation ends in one sentence that names the setting (`ConfigError`). This module reads, it starts nothing.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import ConfigError
from .locations import is_mongodb, shown_uri

ENV_PREFIX = "GEMINI_PROXY_"
GEMINI_BASE_URL = "https://generativelanguage.googleapis.com"
MIB = 1024 * 1024

Csv = Annotated[tuple[str, ...], NoDecode]
Lines = Annotated[tuple[str, ...], NoDecode]
CacheMode = Literal["off", "safe", "all", "replay"]


def default_data_dir() -> Path:
    """The user's data folder for this program; nothing is created."""
    return Path(platformdirs.user_data_dir("gemini-caching-proxy", appauthor=False))


class Settings(BaseSettings):
    """What `gemini-proxy` can be told."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback also needs `allow_remote`."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and prints it."""
    workers: int = Field(1, ge=1, le=64)
    """Worker processes. One is plenty for most; each takes one core at most."""
    allow_remote: bool = False
    """Allow listening on an address that other machines can reach. There is no login: whoever reaches it can use it."""
    data_dir: Path = Field(default_factory=default_data_dir)
    """Folder of the journal, the embedded store and the fingerprint key."""
    store: str = "sqlite"
    """Where exchanges are kept: `sqlite` (a file in the data folder), `sqlite:///path/to/file`, or a MongoDB that
    proxies share: `mongodb://host/database` or `mongodb+srv://…`. Give a password by the environment, not as a flag."""
    cache: CacheMode = "safe"
    """What is answered from the recording: `off` nothing, `safe` only what cannot surprise (token counts, embeddings,
    model listings for a short time, generation with temperature 0), `all` every complete generation too, `replay`
    everything, and the upstream is never called."""
    cassette: Path | None = None
    """Answer from this cassette instead of the store, in replay mode; `gemini-proxy replay` sets it."""
    cache_routes: Csv = ()
    """Other modes for some calls, comma-separated: `operation=mode` or `operation:model=mode`, `*` at an end matches
    any rest; the first that fits counts."""
    cache_ttl: Csv = ()
    """How long answers are served, comma-separated `operation=age` such as `generate_content=12h,list_models=0s`;
    besides operations there are the kinds listing (5m), tokens (30d), embedding (30d) and generation (7d)."""
    cache_namespace: Literal["credential", "shared"] = "credential"
    """Who may be served what: each client credential only its own recordings, or all of them everybody's."""
    cache_dependent: bool = False
    """Also serve answers that depend on more than the request: search, code execution, URLs, files, explicit caches."""
    cache_finish_reasons: Csv = ("STOP", "MAX_TOKENS")
    """Endings, comma-separated, with which a generated answer may be served again."""
    cache_normalisers: Csv = ()
    """Volatile bits of prompts to ignore when requests are compared, comma-separated names; see docs/cache.md."""
    cache_patterns: Lines = ()
    """Own normalisers, one a line: a regular expression (RE2), optionally ` => ` and what to put in its place."""
    cache_replay_errors: bool = True
    """In replay mode answer with a recorded error where no success is recorded."""
    cache_lookup_ms: int = Field(50, ge=1)
    """Milliseconds a lookup in the store may take before it counts as a miss."""
    cache_memory_bytes: int = Field(64 * MIB, ge=0)
    """Memory per worker for hot answers."""
    cache_max_body_bytes: int = Field(16 * MIB, ge=0)
    """Largest request and answer that the cache deals with."""
    record: bool = True
    """Record exchanges. `false` relays only."""
    gemini_base_url: str = GEMINI_BASE_URL
    """Upstream for the Gemini API, with an optional path prefix."""
    gemini_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("GEMINI_PROXY_GEMINI_API_KEY", "GEMINI_API_KEY", "gemini_api_key")
    )
    """Key for clients that send none or a placeholder; the plain variable `GEMINI_API_KEY` is read too."""
    public_url: str | None = None
    """Base URL clients use, when a reverse proxy in front changes it; upload and download URLs are rewritten to it."""
    allowed_hosts: Csv = ()
    """Host names, comma-separated, that requests may carry besides loopback names and the listening address."""
    allowed_origins: Csv = ()
    """Browser origins, comma-separated, that may call the proxy besides loopback pages and VS Code webviews."""
    tls_cert: Path | None = None
    """PEM certificate chain for an HTTPS listener; needs `tls_key`."""
    tls_key: Path | None = None
    """PEM private key for `tls_cert`."""
    upstream_ca: Path | None = None
    """PEM file of certificate authorities to trust for the upstream besides the system's."""
    client_gone: Literal["cancel", "drain"] = "cancel"
    """When a client leaves mid-answer: close the upstream call, or read it to its end and record it."""
    max_body_bytes: int = Field(64 * MIB, ge=1024)
    """A longer body passes through but keeps only its head, size and hash in the record."""
    body_head_bytes: int = Field(64 * 1024, ge=0)
    """How much of a body over `max_body_bytes` is kept."""
    max_header_bytes: int = Field(64 * 1024, ge=1024)
    """Largest request head, request line included."""
    max_header_fields: int = Field(128, ge=8)
    """Most header fields in a request."""
    max_target_bytes: int = Field(16 * 1024, ge=256)
    """Longest request target (path and query)."""
    max_connections: int = Field(10_000, ge=1)
    """Client connections per worker; more are answered 503."""
    header_timeout: float = Field(10.0, gt=0)
    """Seconds a client has to send a request head."""
    body_timeout: float = Field(30.0, gt=0)
    """Seconds a client may pause within a request body."""
    keepalive_timeout: float = Field(75.0, gt=0)
    """Seconds an idle client connection is kept."""
    write_timeout: float = Field(120.0, gt=0)
    """Seconds a client may leave bytes we sent unread or unacknowledged before it counts as gone."""
    connect_timeout: float = Field(10.0, gt=0)
    """Seconds to reach the upstream, TLS included."""
    first_byte_timeout: float = Field(600.0, gt=0)
    """Seconds to wait for the first byte of an answer; thinking models take minutes."""
    idle_timeout: float = Field(300.0, gt=0)
    """Seconds an answer may pause between bytes. There is no limit on its whole length."""
    upstream_keepalive: float = Field(15.0, ge=0)
    """Seconds an idle upstream connection is kept for reuse; 0 uses each once."""
    drain_timeout: float = Field(30.0, ge=0)
    """Seconds that running exchanges get to finish on shutdown."""
    journal_max_bytes: int = Field(2048 * MIB, ge=16 * MIB)
    """Most disk the journal may take while the store is away; beyond it exchanges are counted as gaps."""
    journal_sync_ms: int = Field(100, ge=0)
    """Milliseconds between syncs of the journal to disk: what a power cut can cost. 0 leaves it to the system."""
    journal_full: Literal["relay", "refuse"] = "relay"
    """With the journal full or unwritable: relay on and count the gap, or answer 503."""
    redact_bodies: bool = True
    """Replace credentials of known formats (API keys, private keys, tokens) inside recorded bodies."""
    record_headers: Csv = ()
    """Header names, comma-separated, whose values are recorded besides the well-known harmless ones."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto` is console on a terminal and JSON lines elsewhere."""

    @field_validator(
        "allowed_hosts",
        "allowed_origins",
        "record_headers",
        "cache_routes",
        "cache_ttl",
        "cache_finish_reasons",
        "cache_normalisers",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @field_validator("cache_patterns", mode="before")
    @classmethod
    def _split_lines(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.splitlines() if item.strip()) if isinstance(value, str) else value

    @field_validator("data_dir", mode="after")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("gemini_api_key", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("gemini_base_url", "public_url", mode="after")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            port_ok = parts.port is None or parts.port > 0
        except ValueError as error:
            raise ValueError(f"is not a URL ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
            raise ValueError("must be an http:// or https:// URL with a host")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("must have no query, fragment or user")
        return value.rstrip("/")

    @field_validator("store", mode="after")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value != "sqlite" and not value.startswith("sqlite:///") and not is_mongodb(value):
            raise ValueError(
                "must be `sqlite`, `sqlite:///path/to/file`, `mongodb://host/database` or `mongodb+srv://…`"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or neither")
        if self.cassette is not None and (self.cache != "replay" or self.record):
            raise ValueError(
                "cassette goes with cache=replay and record=false: `gemini-proxy replay FILE` sets all three"
            )
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines and there is no login: "
                "use 127.0.0.1, or set allow_remote to say that you mean it"
            )
        return self

    def parcel(self) -> dict[str, Any]:
        """All values as JSON-ready data, the key in clear: only for a pipe to a process of our own."""
        values = self.model_dump(mode="json", exclude={"gemini_api_key"})
        values["gemini_api_key"] = self.gemini_api_key.get_secret_value() if self.gemini_api_key else None
        return values

    @classmethod
    def from_parcel(cls, values: dict[str, Any]) -> Settings:
        """The settings that `parcel` packed; neither `.env` nor the environment is asked again."""
        return cls(_env_file=None, **values)  # type: ignore[call-arg]

    @property
    def sqlite_path(self) -> Path:
        """The embedded store's file; means nothing for another store."""
        if self.store == "sqlite":
            return self.data_dir / "exchanges.sqlite3"
        return Path(self.store.removeprefix("sqlite:///")).expanduser().absolute()

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: Any) -> Settings:
    """Settings from `.env`, the environment and `overrides` (flags; None means not given).

    Raises:
        ConfigError: one sentence that names the first setting that is wrong.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"Settings do not fit together: {message}."
    name = str(problem["loc"][0]).lower().removeprefix(ENV_PREFIX.lower())
    variable = "GEMINI_API_KEY" if name == "gemini_api_key" else ENV_PREFIX + name.upper()
    given = shown_uri(problem["input"]) if name == "store" and isinstance(problem["input"], str) else problem["input"]
    shown = "" if name == "gemini_api_key" else f" (got {given!r})"
    return f"Setting --{name.replace('_', '-')} / {variable}{shown}: {message}."
