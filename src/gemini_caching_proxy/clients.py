"""The exact setting for each popular client, for a given proxy address.

How each joins a base URL was seen on loopback or read in its source; the proxy takes all of these forms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientSetting:
    client: str
    lines: tuple[str, ...]
    """What to type or write; `{url}` stands for the proxy's address."""
    remark: str = ""

    def at(self, url: str) -> tuple[str, ...]:
        """The lines for a proxy at `url`."""
        return tuple(line.replace("{url}", url.rstrip("/")) for line in self.lines)


CLIENTS = (
    ClientSetting(
        "google-genai (Python)",
        ("export GOOGLE_GEMINI_BASE_URL={url}",),
        'or genai.Client(http_options={"base_url": "{url}"}); a placeholder will do as key if the proxy has one',
    ),
    ClientSetting(
        "@google/genai (Node)",
        ("export GOOGLE_GEMINI_BASE_URL={url}",),
        'or new GoogleGenAI({ httpOptions: { baseUrl: "{url}" } })',
    ),
    ClientSetting(
        "Gemini CLI",
        (
            "export GOOGLE_GEMINI_BASE_URL={url} GEMINI_API_KEY=…",
            '~/.gemini/settings.json: {"security": {"auth": {"selectedType": "gemini-api-key"}}}',
        ),
        "the variable alone fails with “Invalid auth method selected”: the settings file must choose the key",
    ),
    ClientSetting(
        "Cline (VS Code)",
        ("API Provider: Google Gemini · Use custom base URL: {url}",),
    ),
    ClientSetting(
        "Roo Code (VS Code)",
        ("API Provider: Google Gemini · Use custom base URL: {url}",),
    ),
    ClientSetting(
        "Continue (VS Code)",
        ("provider: openai", "apiBase: {url}/v1beta/openai/"),
        "its gemini provider ignores apiBase for chat; starting VS Code with GOOGLE_GEMINI_BASE_URL={url} works too",
    ),
    ClientSetting(
        "LangChain (Python)",
        ('ChatGoogleGenerativeAI(model="gemini-3.8-flash", base_url="{url}")',),
        "langchain-google-genai 4 or newer; the variable GOOGLE_GEMINI_BASE_URL works too",
    ),
    ClientSetting(
        "LangChain (JavaScript)",
        ('new ChatGoogleGenerativeAI({ model: "gemini-3.8-flash", baseUrl: "{url}" })',),
    ),
    ClientSetting(
        "Vercel AI SDK",
        ('createGoogleGenerativeAI({ baseURL: "{url}/v1beta" })',),
        "its base URL includes the version",
    ),
    ClientSetting(
        "OpenAI SDKs",
        ("export OPENAI_BASE_URL={url}/v1beta/openai/",),
        "with the Gemini key as OPENAI_API_KEY",
    ),
    ClientSetting(
        "LiteLLM, aider, CrewAI",
        ("export GEMINI_API_BASE={url}/v1beta",),
        "or api_base=…; it works without the version too",
    ),
    ClientSetting(
        "google-generativeai (retired)",
        ('genai.configure(transport="rest", client_options={"api_endpoint": "{url}"})',),
        "its default transport is gRPC, which no HTTP/1.1 proxy can carry",
    ),
    ClientSetting(
        "curl",
        (
            'curl {url}/v1beta/models/gemini-3.8-flash:generateContent -H "x-goog-api-key: $GEMINI_API_KEY" '
            '-H "content-type: application/json" -d \'{"contents":[{"parts":[{"text":"Hello"}]}]}\'',
        ),
    ),
)
"""Clients in the order in which they are shown."""


def remark_at(setting: ClientSetting, url: str) -> str:
    """The remark for a proxy at `url`."""
    return setting.remark.replace("{url}", url.rstrip("/"))
