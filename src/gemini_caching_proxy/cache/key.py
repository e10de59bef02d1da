"""The cache key: a versioned hash of everything that can change an answer."""

from __future__ import annotations

from blake3 import blake3

from gemini_caching_proxy.providers.base import CacheSubject

SCHEME = "k1"
"""Version of how a key is made; a change of canonical forms or of the parts hashed here needs a new one."""
KEY_BYTES = 16
SHARED = ""
"""Namespace of what everybody may be served: recordings made without a credential, or imported."""


def cache_key(subject: CacheSubject, *, provider: str, upstream: str, namespace: str, normalisers: str = "") -> bytes:
    """The key of a request, `KEY_BYTES` long.

    Args:
        upstream: base URL that is or would be called.
        namespace: fingerprint of the client's credential, or `SHARED`.
        normalisers: name of the set of normalisers that the subject's body went through; empty for none.
    """
    hasher = blake3()
    for part in (
        SCHEME.encode(),
        provider.encode(),
        upstream.encode(),
        subject.operation.encode(),
        subject.model.encode("utf-8", "surrogatepass"),
        subject.variant.encode("utf-8", "surrogatepass"),
        subject.body,
        namespace.encode(),
        normalisers.encode(),
    ):
        # Lengths in front: what ends one part can never be taken for the start of the next.
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest(KEY_BYTES)


def key_text(key: bytes) -> str:
    """A key as people see it: `k1:` and hex digits."""
    return f"{SCHEME}:{key.hex()}"
