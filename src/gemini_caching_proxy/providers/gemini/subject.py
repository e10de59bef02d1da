"""A request -> what it asks for, freed from how its client happened to write it.

Nothing that may change an answer is left out or made equal: where it is not known, two spellings stay two subjects.
"""

from __future__ import annotations

from typing import Any, Final

from gemini_caching_proxy.exchange import Headers, StreamShape
from gemini_caching_proxy.providers.base import CacheKind, CacheSubject, Normalise
from gemini_caching_proxy.providers.exact import Refusal, read_exact, write_exact

from .addresses import CODE_ASSIST, Address, read_address
from .requests import Asked, read_code_assist, read_interaction, read_native, read_openai
from .temperature import may_be_zero

_KINDS: Final[dict[str, CacheKind]] = {
    "list_models": "listing",
    "get_model": "listing",
    "openai_models": "listing",
    "count_tokens": "tokens",
    "compute_tokens": "tokens",
    "embed_content": "embedding",
    "batch_embed_contents": "embedding",
    "openai_embeddings": "embedding",
    "generate_content": "generation",
    "stream_generate_content": "generation",
    "openai_chat_completions": "generation",
    "openai_completions": "generation",
    "create_interaction": "generation",
}
_STREAM: Final = "stream_generate_content"


def cache_kind(operation: str) -> CacheKind | None:
    return _KINDS.get(operation)


def may_be_deterministic(operation: str, body: bytes) -> bool:
    return _KINDS.get(operation) != "generation" or may_be_zero(body)


def cache_subject(
    operation: str,
    model: str | None,
    target: str,
    headers: Headers,
    body: bytes,
    normalise: Normalise | None = None,
) -> CacheSubject | str:
    """What a request asks for, or why it cannot be cached; see `Provider.cache_subject`."""
    kind = _KINDS.get(operation)
    if kind is None:
        return "the operation is never cached"
    address = read_address(target, headers)
    if kind == "listing":
        # Versions list different models.
        variant = f"{address.version} {address.variant}"
        return "a listing with a body" if body.strip() else CacheSubject(operation, model or "", kind, b"", variant)
    try:
        asked = _asked(operation, model, address, read_exact(body))
        value: Any = asked.value if normalise is None else normalise(asked.value)
        canonical = write_exact(value)
    except Refusal as refusal:
        return str(refusal)
    return CacheSubject(
        operation="generate_content" if operation == _STREAM else operation,
        model=asked.model,
        kind=kind,
        body=canonical,
        variant=_variant(operation, address),
        shape=_shape(operation, address, asked),
        deterministic=kind != "generation" or asked.zero_temperature,
        depends_on=asked.depends_on,
    )


def _asked(operation: str, model: str | None, address: Address, value: Any) -> Asked:
    if operation.startswith("openai_"):
        return read_openai(value)
    if operation == "create_interaction":
        return read_interaction(value)
    if address.place == CODE_ASSIST:
        return read_code_assist(value)
    return read_native("generate_content" if operation == _STREAM else operation, model, value)


def _shape(operation: str, address: Address, asked: Asked) -> StreamShape:
    if operation == _STREAM:
        return "sse" if address.sse else "json_array"
    return "sse" if asked.streams else "unary"


def _variant(operation: str, address: Address) -> str:
    if address.sse and operation != _STREAM:
        # A unary answer in one event.
        return address.variant + " sse"
    return address.variant
