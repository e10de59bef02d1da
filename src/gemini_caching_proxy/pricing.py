"""Usage -> what it cost, by the price list that genai-prices carries (no network).

Invariants: a price is a whole number of billionths of a dollar; what cannot be priced is None, never 0; a model that
the list has as free of charge costs 0. Token counts are mapped here and not by the list's own extractors, which refuse
what Gemini really sends: enums as numbers, cached tokens of audio prompts without modality details, the OpenAI path's
thoughts. Not in a price: cache storage, searches, batch discounts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from .exchange import Price, Usage

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

PROVIDER_IDS = {"gemini": "google", "vertex": "google", "openai": "openai", "anthropic": "anthropic"}
NANO = Decimal(1_000_000_000)
MAX_TOKENS = 10**12
"""More is no count of tokens."""

_MODALITY_NUMBERS = {1: "text", 2: "image", 3: "video", 4: "audio", 5: "document"}
_PRICED_AS = {"text": "text", "image": "image", "document": "image", "video": "video", "audio": "audio"}
"""Modality of a usage statement -> that of the price list: documents are read as images of pages."""
_DETAILS: Mapping[str, tuple[str, ...]] = {
    "input": ("promptTokensDetails", "prompt_tokens_details", "toolUsePromptTokensDetails", "input_tokens_by_modality"),
    "cached": ("cacheTokensDetails", "cache_tokens_details", "cached_tokens_by_modality"),
    "output": (
        "candidatesTokensDetails",
        "candidates_tokens_details",
        "responseTokensDetails",
        "output_tokens_by_modality",
    ),
}
_OPENAI_DETAILS = {"input": "prompt_tokens_details", "output": "completion_tokens_details"}


def price(model: str, usage: Usage, provider: str, *, at_ns: int | None = None) -> Price | None:
    """What `usage` of `model` cost; None if the list has no such model or the usage does not say enough.

    `at_ns`: when (Unix time in nanoseconds), for prices that changed; None = now. Flex and priority tiers have their
    own price where the list has one, else the standard price.
    """
    counts = _counts(usage)
    if counts is None:
        return None
    tariff = Tariff(
        _list_name(model),
        PROVIDER_IDS.get(provider, provider),
        usage.service_tier.lower() if usage.service_tier else "",
    )
    when_s = None if at_ns is None else at_ns // 1_000_000_000
    try:
        if when_s is not None and max(counts["input_tokens"], counts["output_tokens"]) <= SMALL_TOKENS:
            rates = _rates(tariff, when_s - when_s % QUARTER_S)
            if rates is not None:
                return rates.price(counts)
        return _listed_price(tariff, when_s, counts)
    except LookupError:
        return None


@dataclass(frozen=True, slots=True)
class Tariff:
    """What of a usage decides how tokens are priced."""

    model: str
    provider: str
    tier: str


def _listed_price(tariff: Tariff, when_s: float | None, counts: dict[str, int]) -> Price | None:
    """As the list's own library has it. Raises LookupError for a model that is not in it."""
    for kept in (counts, _without_modalities(counts)):
        try:
            cost = _cost(tariff, when_s, kept)
        except ValueError:
            # Modality details that contradict the sums: the sums are what is billed.
            continue
        return Price(
            _nano(cost.input_price), _nano(cost.output_price), _nano(cost.total_price), model_ref=cost.model.id[:200]
        )
    return None


def _cost(tariff: Tariff, when_s: float | None, counts: dict[str, int]) -> PriceCalculation:
    # Its data is 30,000 lines of Python: only a process that prices pays for it.
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    return calc_price(
        ListUsage(**counts),
        tariff.model,
        provider_id=tariff.provider,
        genai_request_timestamp=None if when_s is None else datetime.fromtimestamp(when_s, UTC),
        price_context={"service_tier": tariff.tier} if tariff.tier else None,
    )


# The library works out anew for each usage which counts contain which, ten times what the rest of pricing takes. Below
# the sizes at which tiers begin a price is a sum of rates times counts, so the rates are asked for once.

SMALL_TOKENS = 60_000
"""Input or output up to which a tariff may have one rate per kind of token; whether it has is tried."""
QUARTER_S = 900
"""Prices may depend on the time of day, and change on quarters of an hour."""
_PROBE = {
    "input_tokens": SMALL_TOKENS,
    "output_tokens": SMALL_TOKENS,
    "cache_read_tokens": 20_000,
    **{f"input_{modality}_tokens": 14_000 for modality in ("text", "image", "video", "audio")},
    **{f"cache_{modality}_read_tokens": 4_000 for modality in ("text", "image", "video", "audio")},
    **{f"output_{modality}_tokens": 14_000 for modality in ("image", "video", "audio")},
}
_STEP = 1_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars per token of each count, for small usages of one tariff."""

    model_ref: str
    inputs: Mapping[str, Decimal]
    outputs: Mapping[str, Decimal]

    def price(self, counts: Mapping[str, int]) -> Price:
        given, said = (
            sum((rates[name] * count for name, count in counts.items() if count), Decimal(0))
            for rates in (self.inputs, self.outputs)
        )
        return Price(_nano(given), _nano(said), _nano(given + said), model_ref=self.model_ref)


@lru_cache(maxsize=512)
def _rates(tariff: Tariff, when_s: int) -> Rates | None:
    """The rates of a tariff at a time; None if it has no such, or the list does not know the model."""
    try:
        whole = _cost(tariff, when_s, _PROBE)
        without = {name: _cost(tariff, when_s, {**_PROBE, name: count - _STEP}) for name, count in _PROBE.items()}
    except (LookupError, ValueError):
        return None
    rates = Rates(
        whole.model.id[:200],
        {name: (whole.input_price - cost.input_price) / _STEP for name, cost in without.items()},
        {name: (whole.output_price - cost.output_price) / _STEP for name, cost in without.items()},
    )
    small = {name: count // 700 for name, count in _PROBE.items()}
    fits = all(rates.price(counts) == _listed_price(tariff, when_s, counts) for counts in (_PROBE, small))
    return rates if fits else None


def _list_name(model: str) -> str:
    """The bare id: the list does not know `models/x` nor `publishers/google/models/x`."""
    return model.rpartition("models/")[2] if "tunedModels/" not in model else model


def _nano(dollars: Decimal) -> int:
    return int((dollars * NANO).to_integral_value())


def _counts(usage: Usage) -> dict[str, int] | None:
    """The list's names for what a usage statement says, made consistent; None if it says nothing that is billed.

    A count that is not there while others are is 0: Gemini omits zeros.
    """
    billed = (usage.input_tokens, usage.output_tokens, usage.thoughts_tokens, usage.tool_use_tokens)
    if all(count is None for count in billed) or max(count or 0 for count in billed) > MAX_TOKENS:
        return None
    stated = (usage.input_tokens or 0) + (usage.tool_use_tokens or 0)
    output = (usage.output_tokens or 0) + (usage.thoughts_tokens or 0)
    cached = min(usage.cached_tokens or 0, stated)
    details = _read_details(usage.raw)
    inputs = _fitted(details["input"], stated)
    caches = _cached_by_modality(details["cached"], inputs, cached, stated)
    outputs = _fitted(details["output"], output)
    counts = {"input_tokens": stated, "output_tokens": output, "cache_read_tokens": cached}
    for modality in ("text", "image", "video", "audio"):
        counts[f"input_{modality}_tokens"] = inputs.get(modality, 0)
        counts[f"cache_{modality}_read_tokens"] = caches.get(modality, 0)
        # Text is what remains: thoughts are text that no modality detail has.
        if modality != "text":
            counts[f"output_{modality}_tokens"] = outputs.get(modality, 0)
    return counts


def _without_modalities(counts: dict[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in ("input_tokens", "output_tokens", "cache_read_tokens")}


def _fitted(details: dict[str, int], total: int) -> dict[str, int]:
    """Details that add up to no more than the total."""
    stated = sum(details.values())
    if stated <= total:
        return details
    return {modality: math.floor(count * total / stated) for modality, count in details.items()}


def _cached_by_modality(stated: dict[str, int], inputs: dict[str, int], cached: int, total: int) -> dict[str, int]:
    """Cached tokens by modality; where they are not stated, in the proportion of the prompt."""
    if not stated and total:
        stated = {modality: count * cached // total for modality, count in inputs.items()}
    held = {modality: min(count, inputs.get(modality, 0)) for modality, count in stated.items()}
    return _fitted(held, cached)


def _read_details(raw: bytes) -> dict[str, dict[str, int]]:
    """Tokens by direction and modality, from whichever dialect's statement."""
    found: dict[str, dict[str, int]] = {"input": {}, "cached": {}, "output": {}}
    try:
        statement = orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError:
        return found
    if not isinstance(statement, dict):
        return found
    for direction, names in _DETAILS.items():
        for name in names:
            _add_details(found[direction], statement.get(name))
    for direction, name in _OPENAI_DETAILS.items():
        details = statement.get(name)
        if isinstance(details, dict) and (audio := _count(details.get("audio_tokens"))):
            found[direction]["audio"] = audio
    return found


def _add_details(into: dict[str, int], details: Any) -> None:
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        modality = detail.get("modality")
        if isinstance(modality, int):
            modality = _MODALITY_NUMBERS.get(modality, "")
        priced_as = _PRICED_AS.get(modality.lower()) if isinstance(modality, str) else None
        count = _count(detail.get("tokenCount", detail.get("token_count", detail.get("tokens"))))
        if priced_as is not None and count:
            into[priced_as] = into.get(priced_as, 0) + count


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else 0
