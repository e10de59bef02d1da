"""What the simulated models say: a pure function of a seed and a question.

Texts are put together from small stocks of phrases, so that they look alive in a demo, compress like prose and differ
between questions. Nothing here knows the shape of any API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from random import Random
from typing import Any

_SUBJECTS = (
    "The cache", "A worker", "The parser", "Each request", "The scheduler", "Your function", "The stream",
    "This module", "The index", "A retry", "The journal", "The test suite", "The event loop", "Our schema",
    "The queue", "A small script",
)  # fmt: skip
_VERBS = (
    "keeps", "measures", "splits", "returns", "rewrites", "collects", "validates", "hides", "explains",
    "shortens", "orders", "guards", "reuses", "reports", "balances", "postpones",
)  # fmt: skip
_OBJECTS = (
    "the slow path", "every open connection", "only what has changed", "a list of byte ranges",
    "the last known state", "three kinds of errors", "the rows that match", "a copy of the header",
    "one number per minute", "the longest prefix", "the café menu in Zürich", "two independent counters",
    "the user's own settings", "an empty answer", "the missing half",
)  # fmt: skip
_TAILS = (
    "so that nothing has to be computed twice", "before the first byte leaves", "even when the network is slow",
    "as long as the clock moves forward", "which is why the order matters", "and then waits for the next event",
    "without asking the database", "unless a limit says otherwise", "in a single pass", "for about 2 ms",
    "while x < y && y > 0 holds", "at the price of a little memory",
)  # fmt: skip
_TITLES = (
    "Weighing the options", "Reading the question again", "Checking the edge cases", "Sketching a structure",
    "Comparing two approaches", "Settling on an answer", "Looking for the simplest way", "Recalling the details",
)  # fmt: skip
_CODE = (
    "def total(rows):\n    return sum(row.amount for row in rows if row.amount > 0)",
    "const seen = new Set();\nfor (const item of items) {\n  if (!seen.has(item.id)) seen.add(item.id);\n}",
    "SELECT model, count(*) AS calls\nFROM exchanges\nGROUP BY model\nORDER BY calls DESC;",
)
_WORDS = ("amber", "brisk", "cedar", "delta", "ember", "fjord", "grove", "harbor", "indigo", "juniper", "kelp", "lumen")


def rng_for(seed: int, *facts: str) -> Random:
    """The generator of everything that depends on these facts."""
    digest = hashlib.sha256("\x1f".join((str(seed), *facts)).encode()).digest()
    return Random(int.from_bytes(digest[:16]))


def sentence(rng: Random) -> str:
    return f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)} {rng.choice(_TAILS)}."


def prose(rng: Random, *, sentences: int | None = None) -> str:
    """An answer of one to some twenty sentences, at times with a list or a block of code."""
    count = sentences or rng.choice((1, 2, 2, 3, 4, 5, 6, 8, 12, 20))
    blocks = []
    while count > 0:
        taken = min(count, rng.randint(2, 4))
        blocks.append(" ".join(sentence(rng) for _ in range(taken)))
        count -= taken
        if count > 2 and rng.random() < 0.3:
            blocks.append("\n".join(f"* **{rng.choice(_WORDS)}**: {sentence(rng)}" for _ in range(3)))
        if count > 2 and rng.random() < 0.2:
            blocks.append(f"```\n{rng.choice(_CODE)}\n```")
    return "\n\n".join(blocks)


def thought(rng: Random) -> str:
    """One summary of a thought, in the form the API gives them: a bold title, text, three line feeds."""
    body = " ".join(f"I'm considering how {sentence(rng).lower()}" for _ in range(rng.randint(1, 3)))
    return f"**{rng.choice(_TITLES)}**\n\n{body}\n\n\n"


def signature(rng: Random, size: int = 180) -> str:
    """An opaque thought signature, standard base64."""
    return base64.b64encode(rng.randbytes(size)).decode()


def identifier(rng: Random, length: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz0123456789") -> str:
    return "".join(rng.choices(alphabet, k=length))


def response_id(rng: Random) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(16)).decode().rstrip("=")


def tokens(text: str) -> int:
    """How many tokens a text counts; about four characters each."""
    return math.ceil(len(text) / 4)


def split_text(rng: Random, text: str, parts: int) -> list[str]:
    """A text in up to `parts` pieces of uneven length, none empty, which join to the text."""
    parts = max(1, min(parts, len(text)))
    cuts = sorted(rng.sample(range(1, len(text)), parts - 1)) if parts > 1 else []
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def png(rng: Random, *, side: int = 48) -> bytes:
    """A small picture of coloured stripes."""
    colours = [bytes(rng.randrange(256) for _ in range(3)) for _ in range(rng.randint(3, 6))]
    rows = b"".join(b"\0" + colours[row * len(colours) // side] * side for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    blocks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in blocks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def embedding(rng: Random, dimensions: int) -> list[float]:
    """A unit vector."""
    values = [rng.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [round(value / length, 8) for value in values]


def conforming(rng: Random, schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that fits a schema in the simple cases (JSON Schema, or the API's with upper-case type names)."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(list(schema["enum"]))
    for choice in ("anyOf", "any_of", "oneOf", "allOf"):
        if schema.get(choice):
            return conforming(rng, schema[choice][0], depth)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        return _conforming_object(rng, schema, depth)
    if kind == "array":
        return _conforming_array(rng, schema, depth)
    return _scalar(rng, kind, schema)


def _conforming_object(rng: Random, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or properties)
    chosen = {
        name: inner for name, inner in properties.items() if name in required or (depth < 3 and rng.random() < 0.7)
    }
    return {name: conforming(rng, inner, depth + 1) for name, inner in chosen.items()}


def _conforming_array(rng: Random, schema: Mapping[str, Any], depth: int) -> list[Any]:
    least = int(schema.get("minItems") or schema.get("min_items") or 1)
    most = int(schema.get("maxItems") or schema.get("max_items") or least + 2)
    items = schema.get("items") or {"type": "string"}
    return [conforming(rng, items, depth + 1) for _ in range(rng.randint(least, max(least, most)))]


def _scalar(rng: Random, kind: str, schema: Mapping[str, Any]) -> Any:
    low = schema.get("minimum", 0)
    high = max(schema.get("maximum", low + 100), low)
    if kind == "integer":
        return rng.randint(math.ceil(low), math.floor(high))
    if kind == "number":
        return round(rng.uniform(low, high), 3)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    if schema.get("format") in ("date-time", "date"):
        return "2026-03-14T09:26:53Z" if schema["format"] == "date-time" else "2026-03-14"
    word = " ".join(rng.sample(_WORDS, 2))
    return word.ljust(int(schema.get("minLength") or 0), "x")[: int(schema.get("maxLength") or 10_000)]


def canonical(value: Any) -> str:
    """One spelling of a JSON value, for seeding."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
