"""The response field `Cache-Status` (RFC 9211): what the cache did, and why it did not serve."""

from __future__ import annotations

from .key import key_text

NAME = "gemini-proxy"
MOST_DETAIL = 200


def cache_status(
    *,
    hit: bool = False,
    fwd: str = "",
    collapsed: bool = False,
    stored: bool = False,
    ttl_s: float | None = None,
    key: bytes | None = None,
    detail: str = "",
) -> bytes:
    """A field value.

    Args:
        fwd: why the request went on (RFC 9211 section 2.2): `bypass`, `request`, `miss`, `stale`; empty if it did not.
        ttl_s: what is left of the answer's lifetime; negative where it is over.
    """
    parts = [NAME]
    if hit:
        parts.append("hit")
    if fwd:
        parts.append(f"fwd={fwd}")
    if collapsed:
        parts.append("collapsed")
    if stored:
        parts.append("stored")
    if ttl_s is not None:
        parts.append(f"ttl={int(ttl_s)}")
    if key is not None:
        parts.append(f'key="{key_text(key)}"')
    if detail:
        parts.append(f"detail={_quoted(detail)}")
    return "; ".join(parts).encode("ascii")


def _quoted(text: str) -> str:
    """A String of structured fields (RFC 8941 section 3.3.3)."""
    plain = "".join(character if " " <= character <= "~" else "?" for character in text[:MOST_DETAIL])
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
