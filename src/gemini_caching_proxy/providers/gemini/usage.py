"""Usage statements of the Gemini dialects -> `Usage`."""

from __future__ import annotations

from typing import Any

from gemini_caching_proxy.exchange import Usage
from gemini_caching_proxy.providers.fields import pick_count, pick_text


def usage_metadata(value: Any, raw: bytes, tier: str = "") -> Usage:
    """`usageMetadata` of generateContent, embeddings, caches and Live; zeros are omitted by the API (section 4.2)."""
    return Usage(
        input_tokens=pick_count(value, "promptTokenCount", "prompt_token_count"),
        cached_tokens=pick_count(value, "cachedContentTokenCount", "cached_content_token_count"),
        output_tokens=pick_count(value, "candidatesTokenCount", "candidates_token_count", "responseTokenCount"),
        thoughts_tokens=pick_count(value, "thoughtsTokenCount", "thoughts_token_count"),
        tool_use_tokens=pick_count(value, "toolUsePromptTokenCount", "tool_use_prompt_token_count"),
        total_tokens=pick_count(value, "totalTokenCount", "total_token_count"),
        service_tier=pick_text(value, "serviceTier", "service_tier") or tier or None,
        raw=raw,
    )


def interaction_usage(value: Any, raw: bytes, tier: str = "") -> Usage:
    """`usage` of an Interaction (section 5)."""
    return Usage(
        input_tokens=pick_count(value, "total_input_tokens"),
        cached_tokens=pick_count(value, "total_cached_tokens"),
        output_tokens=pick_count(value, "total_output_tokens"),
        thoughts_tokens=pick_count(value, "total_thought_tokens", "total_reasoning_tokens"),
        tool_use_tokens=pick_count(value, "total_tool_use_tokens"),
        total_tokens=pick_count(value, "total_tokens"),
        service_tier=tier or None,
        raw=raw,
    )
