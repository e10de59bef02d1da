"""Reads a Dockerfile: its stages and their instructions, as far as ours uses the language.

Known: continuation lines, comments, `FROM … AS …`, flags (`--mount=…`), the JSON form, and variables in ENV values.
What is not known raises ValueError, so that a test notices when the file outgrows its reader.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KNOWN = frozenset(
    {
        *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "LABEL", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"),
        *("ENTRYPOINT", "CMD"),
    }
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `RUN --mount=… command` has the word RUN, one flag, and the rest as its text."""

    word: str
    flags: tuple[str, ...]
    text: str

    @property
    def words(self) -> tuple[str, ...]:
        """The text as a command line: from the JSON form as it is, else split as a shell does."""
        return tuple(json.loads(self.text)) if self.text.startswith("[") else tuple(shlex.split(self.text))

    def flag(self, name: str) -> str | None:
        """The value of `--name=value`."""
        return next((each.partition("=")[2] for each in self.flags if each.startswith(f"--{name}=")), None)


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def last(self, word: str) -> Instruction | None:
        return next((each for each in reversed(self.instructions) if each.word == word), None)

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """The variables of the stage's end, on top of those of its base."""
        found = dict(base)
        for each in self.instructions:
            if each.word == "ENV":
                found |= assigned(each, found)
        return found


def assigned(instruction: Instruction, known: dict[str, str]) -> dict[str, str]:
    """What one ENV sets; its values see the variables from before it."""
    pairs = (word.partition("=") for word in instruction.words)
    return {name: re.sub(r"\$\{?(\w+)\}?", lambda m: known.get(m[1], ""), value) for name, _, value in pairs}


def read_stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, in its order."""
    stages: list[Stage] = []
    gathered: list[Instruction] = []
    for instruction in _instructions(path.read_text()):
        if instruction.word != "FROM":
            gathered.append(instruction)
            continue
        _close(stages, gathered)
        base, *rest = instruction.words
        stages.append(Stage(base, rest[1] if rest else "", ()))
    _close(stages, gathered)
    return stages


def _close(stages: list[Stage], gathered: list[Instruction]) -> None:
    if stages:
        stages[-1] = Stage(stages[-1].base, stages[-1].name, tuple(gathered))
    elif gathered:
        raise ValueError("an instruction stands before the first FROM")
    gathered.clear()


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for statement in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = statement.strip().partition(" ")
        if word not in KNOWN:
            raise ValueError(f"unknown instruction: {statement}")
        flags = []
        while (rest := rest.lstrip()).startswith("--"):
            flag, _, rest = rest.partition(" ")
            flags.append(flag)
        yield Instruction(word, tuple(flags), rest)
