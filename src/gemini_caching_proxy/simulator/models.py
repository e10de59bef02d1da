"""The models on offer, as the API lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GENERATE = ("generateContent", "countTokens", "createCachedContent", "batchGenerateContent")
EMBED = ("embedContent", "countTextTokens", "countTokens", "asyncBatchEmbedContent")
LIVE = ("bidiGenerateContent", "countTokens")
VIDEO = ("predictLongRunning",)
IMAGE = ("predict",)


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    title: str
    methods: tuple[str, ...] = GENERATE
    thinks: bool = True
    answers_as: str | None = None
    """For an alias: the model whose name stands in `modelVersion`."""
    dimensions: int = 3072

    @property
    def version(self) -> str:
        return self.answers_as or self.name

    def to_json(self) -> dict[str, Any]:
        """The resource `models/…`."""
        described: dict[str, Any] = {
            "name": f"models/{self.name}",
            "version": "001",
            "displayName": self.title,
            "description": f"{self.title}, simulated.",
            "inputTokenLimit": 1048576 if "generateContent" in self.methods else 2048,
            "outputTokenLimit": 65536 if "generateContent" in self.methods else 1,
            "supportedGenerationMethods": list(self.methods),
        }
        if "generateContent" in self.methods:
            described |= {"temperature": 1, "topP": 0.95, "topK": 64, "maxTemperature": 2, "thinking": self.thinks}
        return described


CATALOGUE = (
    Model("gemini-2.0-flash", "Gemini 2.0 Flash", thinks=False),
    Model("gemini-2.5-flash", "Gemini 2.5 Flash"),
    Model("gemini-2.5-flash-lite", "Gemini 2.5 Flash-Lite", thinks=False),
    Model("gemini-2.5-pro", "Gemini 2.5 Pro"),
    Model("gemini-2.5-flash-image", "Nano Banana", thinks=False),
    Model("gemini-3-flash-preview", "Gemini 3 Flash Preview"),
    Model("gemini-3-pro-preview", "Gemini 3 Pro Preview"),
    Model("gemini-3.5-flash", "Gemini 3.5 Flash"),
    Model("gemini-3.5-flash-lite", "Gemini 3.5 Flash-Lite", thinks=False),
    Model("gemini-3.6-flash", "Gemini 3.6 Flash"),
    Model("gemini-3.8-flash", "Gemini 3.8 Flash"),
    Model("gemini-flash-latest", "Gemini Flash Latest", answers_as="gemini-3.8-flash"),
    Model("gemini-embedding-001", "Gemini Embedding 001", EMBED, thinks=False),
    Model("gemini-embedding-2", "Gemini Embedding 2", EMBED, thinks=False),
    Model("gemini-live-2.5-flash-preview", "Gemini 2.5 Flash Live", LIVE, thinks=False),
    Model("imagen-4.0-generate-001", "Imagen 4", IMAGE, thinks=False),
    Model("veo-3.0-generate-001", "Veo 3", VIDEO, thinks=False),
)


def find(name: str, extra: tuple[str, ...] = ()) -> Model | None:
    """A model by its bare name. `sim-…` names exist too, and play the fault they are called after."""
    known = next((model for model in CATALOGUE if model.name == name), None)
    if known is None and (name.startswith("sim-") or name in extra):
        return Model(name, name, GENERATE + EMBED[:1] + LIVE[:1])
    return known
