"""Questions and answers between the dialects and the content: what was asked and what is said, in no API's shape.

`answer_for` is deterministic: the same seed, question and nonce give the same answer, its id and signatures included.
Magic phrases in the last turn: "simulate a safety block", "simulate a blocked prompt", "simulate N sentences".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from . import content

IMAGE_TOKENS = 1290
"""What a generated picture counts, as documented for the API's image models."""
INPUT_MEDIA_TOKENS = {"IMAGE": 258, "AUDIO": 320, "VIDEO": 2630, "DOCUMENT": 258}
IMPLICIT_CACHE_LEAST = 2048
_SENTENCES = re.compile(r"simulate (\d{1,4}) sentences")


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One request for an answer."""

    model: str
    """Bare name."""
    key: str
    """Everything that may change the answer, in one spelling."""
    last_text: str = ""
    prompt_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens by modality: TEXT, IMAGE, AUDIO, VIDEO, DOCUMENT."""
    cached_tokens: int = 0
    tools: tuple[Tool, ...] = ()
    after_tool_result: bool = False
    searches: bool = False
    json_output: bool = False
    schema: Mapping[str, Any] | None = None
    thinks: bool = True
    shows_thoughts: bool = False
    max_tokens: int | None = None
    modalities: tuple[str, ...] = ("TEXT",)
    candidates: int = 1

    @property
    def prompt_total(self) -> int:
        return sum(self.prompt_tokens.values())


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Media:
    mime_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    id: str
    rng: Random
    """Continues the answer's randomness, for cutting it into pieces."""
    text: str = ""
    thoughts: tuple[str, ...] = ()
    signature: str = ""
    call: ToolCall | None = None
    media: Media | None = None
    finish: Literal["STOP", "MAX_TOKENS", "SAFETY"] = "STOP"
    block_reason: str | None = None
    output_tokens: int = 0
    """Thoughts not counted."""
    thought_tokens: int = 0
    tool_tokens: int = 0


def answer_for(question: Question, seed: int, nonce: int = 0) -> Answer:
    """What the model says."""
    rng = content.rng_for(seed, question.model, question.key, str(nonce))
    identity = content.response_id(rng)
    asked = question.last_text.lower()
    if "simulate a blocked prompt" in asked:
        return Answer(identity, rng, block_reason="PROHIBITED_CONTENT")
    thoughts, thought_tokens = _thoughts(question, rng)
    tool = _fitting(question)
    signature = content.signature(rng) if thought_tokens else ""
    if tool is not None:
        call = ToolCall(content.identifier(rng, 8), tool.name, content.conforming(rng, tool.schema))
        spent = content.tokens(tool.name + json.dumps(call.arguments)) + 4
        return Answer(identity, rng, thoughts=thoughts, signature=signature, call=call, output_tokens=spent,
                      thought_tokens=thought_tokens)  # fmt: skip
    media = _media(question, rng)
    text, finish = _text(question, rng, with_media=media is not None)
    return Answer(
        identity,
        rng,
        text=text,
        thoughts=thoughts,
        signature=signature,
        media=media,
        finish=finish,
        output_tokens=content.tokens(text) + (IMAGE_TOKENS if media else 0),
        thought_tokens=thought_tokens,
        tool_tokens=rng.randint(40, 400) if question.searches else 0,
    )


def cached_share(prompt_tokens: int, turns: int) -> int:
    """What the implicit cache covers of a long conversation: whole blocks of 1,024 tokens, some three quarters."""
    if prompt_tokens < IMPLICIT_CACHE_LEAST or turns < 3:
        return 0
    return prompt_tokens * 3 // 4 // 1024 * 1024


def _thoughts(question: Question, rng: Random) -> tuple[tuple[str, ...], int]:
    if not question.thinks:
        return (), 0
    spent = rng.randint(30, 600)
    shown = tuple(content.thought(rng) for _ in range(rng.randint(1, 3)))
    return (shown if question.shows_thoughts else ()), spent


def _fitting(question: Question) -> Tool | None:
    """The tool to call: the one whose name shares a word with the question, else the first."""
    if not question.tools or question.after_tool_result:
        return None
    words = set(re.findall(r"[a-z]{3,}", question.last_text.lower()))
    named = (tool for tool in question.tools if words & set(re.findall(r"[a-z]{3,}", tool.name.lower())))
    return next(named, question.tools[0])


def _media(question: Question, rng: Random) -> Media | None:
    if "IMAGE" in question.modalities:
        return Media("image/png", content.png(rng))
    if "AUDIO" in question.modalities:
        return Media("audio/L16;codec=pcm;rate=24000", rng.randbytes(4800))
    return None


def _text(question: Question, rng: Random, *, with_media: bool) -> tuple[str, Literal["STOP", "MAX_TOKENS", "SAFETY"]]:
    asked = question.last_text.lower()
    if question.json_output:
        text = json.dumps(content.conforming(rng, question.schema or {"type": "object"}), indent=2)
    elif with_media:
        text = "" if "TEXT" not in question.modalities else content.sentence(rng)
    else:
        wanted = _SENTENCES.search(asked)
        subject = f"About “{question.last_text.strip()[:60]}”: " if question.last_text.strip() else ""
        text = subject + content.prose(rng, sentences=int(wanted[1]) if wanted else None)
    if "simulate a safety block" in asked:
        return text[: len(text) // 2], "SAFETY"
    if question.max_tokens is not None and content.tokens(text) > question.max_tokens:
        return text[: question.max_tokens * 4], "MAX_TOKENS"
    return text, "STOP"
