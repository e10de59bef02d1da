"""One request in the many spellings of clients: trees with marks for whose a value is, and a random writer of JSON."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class User:
    """A value of the user's: only its JSON may be written otherwise."""

    value: Any


@dataclass(frozen=True)
class Binary:
    data: bytes


@dataclass(frozen=True)
class Whole:
    """A number field of the API that holds a whole number."""

    number: int
    as_text: bool = False
    """Whether the API takes it as a string too (64-bit numbers)."""


EMPTIES = {
    "safetySettings": "[]",
    "tools": "[]",
    "generationConfig": "{}",
    "toolConfig": "{}",
    "stopSequences": "[]",
    "responseModalities": "[]",
    "cachedContent": "null",
    "seed": "null",
}
TOP = ("safetySettings", "tools", "generationConfig", "toolConfig", "cachedContent")
CONFIG = ("stopSequences", "responseModalities", "seed")


class Speller:
    """Writes a tree as JSON, each time in another way that means the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def request(self, tree: dict[str, Any]) -> bytes:
        return self.write(tree, absent=TOP).encode()

    def write(self, value: Any, *, absent: tuple[str, ...] = ()) -> str:
        match value:
            case User():
                return self.plain(value.value)
            case Binary():
                return self.text(self.base64(value.data))
            case Whole():
                forms = [f"{value.number}", f"{value.number}.0", f"{value.number}e0", f"{value.number}.00E+0"]
                if value.number == 0:
                    forms.append("-0.0")
                if value.as_text:
                    forms.append(f'"{value.number}"')
                return self.random.choice(forms)
            case dict():
                return self.message(value, absent)
            case list():
                return self.array([self.write(each) for each in value])
        return self.plain(value)

    def message(self, value: dict[str, Any], absent: tuple[str, ...]) -> str:
        members = []
        for name, item in value.items():
            if name == "role" and item == "user" and self.random.random() < 0.5:
                continue
            if name == "systemInstruction" and self.is_lone_text(item) and self.random.random() < 0.3:
                members.append((self.key(name), self.text(item["parts"][0]["text"])))
                continue
            inner = CONFIG if name == "generationConfig" else ()
            members.append((self.key(name), self.write(item, absent=inner)))
        for name in absent:
            if name not in value and self.random.random() < 0.3:
                members.append((self.key(name), EMPTIES[name]))
        self.random.shuffle(members)
        return self.object(members)

    @staticmethod
    def is_lone_text(system: Any) -> bool:
        return [list(part) for part in system["parts"]] == [["text"]]

    def key(self, name: str) -> str:
        return re.sub("([A-Z])", r"_\1", name).lower() if self.random.random() < 0.5 else name

    def base64(self, data: bytes) -> str:
        text = (base64.b64encode if self.random.random() < 0.5 else base64.urlsafe_b64encode)(data).decode()
        return text.rstrip("=") if self.random.random() < 0.5 else text

    def plain(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            members = list(value.items())
            self.random.shuffle(members)
            return self.object([(name, self.plain(item)) for name, item in members])
        if isinstance(value, list):
            return self.array([self.plain(each) for each in value])
        return json.dumps(value)

    def object(self, members: list[tuple[str, str]]) -> str:
        inside = ",".join(
            f"{self.space()}{self.text(key)}{self.space()}:{self.space()}{value}" for key, value in members
        )
        return "{" + inside + self.space() + "}"

    def array(self, items: list[str]) -> str:
        return "[" + ",".join(self.space() + item for item in items) + self.space() + "]"

    def space(self) -> str:
        return self.random.choice(("", "", "", " ", "\n", "\r\n\t"))

    def text(self, text: str) -> str:
        """A string with escapes where there need be none, and without where there can be."""
        if self.random.random() < 0.5:
            return json.dumps(text, ensure_ascii=self.random.random() < 0.5)
        return '"' + "".join(map(self.character, text)) + '"'

    def character(self, character: str) -> str:
        if self.random.random() < 0.3:
            units = character.encode("utf-16-be")
            return "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2))
        if character == "/" and self.random.random() < 0.5:
            return "\\/"
        return json.dumps(character, ensure_ascii=False)[1:-1]
