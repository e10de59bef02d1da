import json
from datetime import UTC, datetime
from time import time_ns
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemini_caching_proxy.exchange import Price, Usage
from gemini_caching_proxy.pricing import price

FLASH = "gemini-2.5-flash"
"""Per million tokens: input $0.30, output $2.50, cached $0.03, audio $1.00, cached audio $0.10."""


def usage(**fields: Any) -> Usage:
    raw = fields.pop("raw", None)
    return Usage(**fields, raw=json.dumps(raw).encode() if raw else b"")


def total(model: str, stated: Usage, provider: str = "gemini") -> int | None:
    found = price(model, stated, provider)
    return found.total_nanousd if found else None


def test_a_price_is_in_billionths_of_a_dollar() -> None:
    stated = usage(input_tokens=1000, output_tokens=10, thoughts_tokens=90, total_tokens=1100)
    assert price(FLASH, stated, "gemini") == Price(300_000, 250_000, 550_000, "gemini-2.5-flash")


def test_cached_tokens_are_part_of_the_input_and_tool_use_is_beside_it() -> None:
    assert total(FLASH, usage(input_tokens=1000, cached_tokens=400)) == 600 * 300 + 400 * 30
    assert total(FLASH, usage(input_tokens=1000, tool_use_tokens=500)) == 1500 * 300


def test_more_cached_than_sent_is_no_reason_to_give_up() -> None:
    assert total(FLASH, usage(input_tokens=100, cached_tokens=400)) == 100 * 30


@pytest.mark.parametrize(
    "model",
    [
        "models/gemini-2.5-flash",
        "publishers/google/models/gemini-2.5-flash",
        "projects/p/locations/l/models/gemini-2.5-flash",
    ],
)
def test_a_models_collection_is_not_its_name(model: str) -> None:
    assert total(model, usage(input_tokens=1000)) == 300_000


@pytest.mark.parametrize(
    "model",
    ["text-embedding-004", "imagen-4.0-generate-001", "veo-3.0", "tunedModels/gemini-2.5-flash", "nonsense", ""],
)
def test_an_unknown_model_is_unpriced_and_not_free(model: str) -> None:
    assert price(model, usage(input_tokens=1000, output_tokens=10), "gemini") is None


def test_an_unknown_provider_is_unpriced() -> None:
    assert price(FLASH, usage(input_tokens=1000), "nobody") is None


def test_a_model_that_is_free_of_charge_costs_nothing() -> None:
    found = price("gemma-4-31b-it", usage(input_tokens=1000, output_tokens=10), "gemini")
    assert found is not None
    assert found.total_nanousd == 0


@pytest.mark.parametrize(
    "stated",
    [
        usage(),
        usage(total_tokens=3512),
        usage(cached_tokens=3),
        usage(raw={"trafficType": "ON_DEMAND"}),
        usage(input_tokens=10**15),
    ],
)
def test_usage_that_says_nothing_that_is_billed_is_unpriced(stated: Usage) -> None:
    assert price(FLASH, stated, "gemini") is None


def test_counts_that_are_omitted_beside_others_are_zero() -> None:
    assert total(FLASH, usage(output_tokens=10)) == 25_000


@pytest.mark.parametrize("audio", ["AUDIO", "audio", 4])
def test_audio_has_its_own_price_whatever_the_spelling_of_the_modality(audio: str | int) -> None:
    raw = {"promptTokensDetails": [{"modality": audio, "tokenCount": 600}, {"modality": "TEXT", "tokenCount": 400}]}
    assert total(FLASH, usage(input_tokens=1000, raw=raw)) == 600 * 1000 + 400 * 300


def test_modalities_of_interactions_are_read() -> None:
    raw = {"input_tokens_by_modality": [{"modality": "audio", "tokens": 600}, {"modality": "text", "tokens": 400}]}
    assert total(FLASH, usage(input_tokens=1000, raw=raw)) == 600 * 1000 + 400 * 300


def test_cached_audio_that_is_stated_is_priced_as_such() -> None:
    raw = {
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1000}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 400}],
    }
    assert total(FLASH, usage(input_tokens=1000, cached_tokens=400, raw=raw)) == 600 * 1000 + 400 * 100


def test_cached_tokens_of_an_audio_prompt_without_details_are_shared_out_in_proportion() -> None:
    raw = {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 500}, {"modality": "TEXT", "tokenCount": 500}]}
    found = total(FLASH, usage(input_tokens=1000, cached_tokens=400, raw=raw))
    assert found == 300 * 1000 + 300 * 300 + 200 * 100 + 200 * 30


def test_an_image_that_was_made_has_its_own_price() -> None:
    raw = {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}]}
    stated = usage(input_tokens=10, output_tokens=1300, thoughts_tokens=5, raw=raw)
    assert total("gemini-2.5-flash-image", stated) == 10 * 300 + 1290 * 30_000 + 15 * 2500


@pytest.mark.parametrize(
    "raw",
    [
        {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 9000}]},
        {
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": "many"}, None, {"modality": 99}],
            "cacheTokensDetails": {},
        },
        {"promptTokensDetails": [{"modality": "SMELL", "tokenCount": 5}]},
        [],
    ],
)
def test_details_that_make_no_sense_leave_the_sums_priced(raw: Any) -> None:
    found = total(FLASH, usage(input_tokens=1000, raw=raw))
    assert found is not None
    assert 300_000 <= found <= 1_000_000


def test_long_prompts_have_their_tier() -> None:
    assert total("gemini-2.5-pro", usage(input_tokens=200_000)) == 200_000 * 1250
    assert total("gemini-2.5-pro", usage(input_tokens=200_001)) == 200_001 * 2500


def test_the_price_is_that_of_the_day() -> None:
    def at(year: int, month: int) -> int:
        nanoseconds = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 10**9
        found = price("gemini-3.8-flash", usage(input_tokens=1000), "gemini", at_ns=nanoseconds)
        assert found is not None
        return found.total_nanousd

    assert at(2026, 11) == 750_000
    assert at(2027, 2) > at(2026, 11)


def test_a_tier_has_its_price_where_the_list_knows_it() -> None:
    standard = total("gemini-3.8-flash-tts", usage(input_tokens=1000))
    flex = total("gemini-3.8-flash-tts", usage(input_tokens=1000, service_tier="FLEX"))
    assert standard is not None
    assert flex is not None
    assert flex * 2 == standard


def test_openais_own_models_are_priced_under_its_name() -> None:
    found = price("gpt-4o-mini-2024-07-18", usage(input_tokens=1000, cached_tokens=0, output_tokens=0), "openai")
    assert found is not None
    assert found.total_nanousd == 150_000


COUNTS = st.sampled_from([None, 0, 1, 7, 1_000, 30_000, 59_999])
DETAILS = st.lists(
    st.fixed_dictionaries(
        {
            "modality": st.sampled_from(["TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT"]),
            "tokenCount": st.integers(0, 40_000),
        }
    ),
    max_size=3,
)
MODELS = st.sampled_from(
    ["gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-pro-preview", "gemini-2.5-flash-image", "gemini-embedding-001"]
)


@settings(max_examples=300, deadline=None)
@given(model=MODELS, counts=st.tuples(*[COUNTS] * 4), asked=DETAILS, said=DETAILS, tier=st.sampled_from([None, "flex"]))
def test_remembered_rates_give_the_lists_price(
    model: str, counts: tuple[int | None, ...], asked: list[object], said: list[object], tier: str | None
) -> None:
    given_, cached, out, thoughts = counts
    raw = json.dumps({"promptTokensDetails": asked, "candidatesTokensDetails": said}).encode()
    usage = Usage(given_, cached, out, thoughts, None, None, tier, raw)
    # Without a time the list itself is asked.
    assert price(model, usage, "gemini", at_ns=time_ns()) == price(model, usage, "gemini")
