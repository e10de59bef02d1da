"""Exactly one credential upstream, whoever brings how many."""

from __future__ import annotations

import pytest

from gemini_caching_proxy.credentials import (
    Credentials,
    UploadOwners,
    is_placeholder,
    query_credential,
    upload_id,
    without_query_credentials,
)
from gemini_caching_proxy.providers.base import Route

OWN = b"AQ.the-proxy-key-that-is-real"
GOOGLE = b"x-goog-api-key: AQ.client-key-0123456789\r\n"
BEARER = b"Authorization: Bearer AQ.bearer-key-0123456789\r\n"
FILLER = b"x-goog-api-key: dummy\r\n"
NATIVE = Route("gemini", "generate_content", "m", b"/v1/models/m:generateContent")
COMPAT = Route("gemini", "openai_chat_completions", None, b"/v1beta/openai/chat/completions", credential_style="bearer")
UPLOAD = Route("gemini", "upload_chunk", None, b"/upload/v1beta/files?upload_id=x", needs_no_credential=True)


def fingerprint(secret: bytes) -> str:
    return "fp:" + secret.decode()


def carriers(settlement: object, query: bytes) -> int:
    """How many credentials would go upstream."""
    lines, added, keep = settlement.lines, settlement.added, settlement.keep_query  # type: ignore[attr-defined]
    return len(lines) + bool(added) + bool(keep and query_credential(query))


@pytest.mark.parametrize("own", [None, OWN])
@pytest.mark.parametrize("lines", [(GOOGLE,), (BEARER,), (GOOGLE, BEARER), (BEARER, GOOGLE), (FILLER, BEARER)])
@pytest.mark.parametrize("query", [b"", b"key=AQ.query-key-0123456789", b"alt=sse&key=dummy"])
def test_a_clients_own_key_passes_alone(own: bytes | None, lines: tuple[bytes, ...], query: bytes) -> None:
    settlement = Credentials(own, fingerprint).settle(lines, query, NATIVE)
    assert carriers(settlement, query) == 1
    assert settlement.source == "client"
    assert settlement.lines[0] in (GOOGLE, BEARER)
    if GOOGLE in lines:
        assert settlement.lines == (GOOGLE,), "the native header goes before the others"


@pytest.mark.parametrize(
    ("lines", "query"),
    [((), b""), ((FILLER,), b""), ((FILLER,), b"key=placeholder"), ((), b"key=your-api-key&alt=sse")],
)
def test_the_proxys_key_stands_in(lines: tuple[bytes, ...], query: bytes) -> None:
    settlement = Credentials(OWN, fingerprint).settle(lines, query, NATIVE)
    assert settlement.added == b"x-goog-api-key: " + OWN + b"\r\n"
    assert carriers(settlement, query) == 1
    assert settlement.source == "proxy"
    assert OWN in settlement.secrets
    compat = Credentials(OWN, fingerprint).settle(lines, query, COMPAT)
    assert compat.added == b"Authorization: Bearer " + OWN + b"\r\n"


def test_without_a_key_of_our_own_a_placeholder_passes() -> None:
    settlement = Credentials(None, fingerprint).settle((FILLER,), b"", NATIVE)
    assert settlement.lines == (FILLER,)
    assert Credentials(None, fingerprint).settle((), b"", NATIVE).source == "none"


def test_a_query_key_alone_stays_where_it_is() -> None:
    settlement = Credentials(OWN, fingerprint).settle((), b"key=AQ.query-key-0123456789", NATIVE)
    assert settlement.keep_query
    assert settlement.fingerprint == "fp:AQ.query-key-0123456789"
    assert not settlement.added


def test_upload_calls_get_no_key_and_count_for_who_began() -> None:
    settlement = Credentials(OWN, fingerprint).settle((), b"upload_id=x", UPLOAD)
    assert (settlement.lines, settlement.added, settlement.source) == ((), b"", "none")
    owners = UploadOwners(most=2)
    owners.remember(b"http://127.0.0.1:8000/upload/v1beta/files?upload_id=abc&upload_protocol=resumable", "fp:me")
    assert owners.owner(b"upload_protocol=resumable&upload_id=abc") == "fp:me"
    owners.remember(b"http://h/?upload_id=2", None)
    owners.remember(b"http://h/?upload_id=3", None)
    assert owners.owner(b"upload_id=abc") is None, "the oldest is forgotten"


def test_placeholders_are_no_secrets() -> None:
    settlement = Credentials(OWN, fingerprint).settle((b"x-goog-api-key: not-needed\r\n",), b"key=placeholder", NATIVE)
    assert settlement.secrets == (OWN,)


@pytest.mark.parametrize(
    "value",
    ["", "x", "xxxx", "dummy", "DUMMY", "placeholder", "none", "null", "test", "test-key", "fake_key", "your-api-key",
     "YOUR_API_KEY", "<your key here>", "${GEMINI_API_KEY}", "sk-dummy", "not-needed", "no-key", "unused", "api-key",
     "Bearer dummy", "***", "changeme", "my-key"],
)  # fmt: skip
def test_words_typed_to_fill_a_field(value: str) -> None:
    assert is_placeholder(value.encode())


@pytest.mark.parametrize(
    "value", ["AIza" + "b" * 35, "AQ.Ab8RN6example0123456789", "ya29.a0example", "KEYKEYKEY", "sk-proj-0a1b2c3d4e5f"]
)
def test_keys(value: str) -> None:
    assert not is_placeholder(value.encode())


def test_queries() -> None:
    assert query_credential(b"alt=sse&key=abc&x=1") == b"abc"
    assert query_credential(b"monkey=abc") == b""
    assert without_query_credentials(b"alt=sse&key=abc&%78=1&&y") == b"alt=sse&%78=1&&y"
    assert upload_id(b"a=1&upload_id=zz") == b"zz"
    assert upload_id(b"") == b""
