"""Which header fields are harmless, and which carry what kind of secret. Names in lower case."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """How a field's value is written."""

    PLAIN = "as it is, known formats replaced"
    URL = "secrets in its queries replaced"
    SCHEME = "the scheme word, then a fingerprint"
    COOKIES = "names kept"
    SET_COOKIE = "name and attributes kept"
    PROTOCOLS = "long or token-like items replaced"
    OPAQUE = "a fingerprint"


_CREDENTIALS: Final = {
    "authorization": Kind.SCHEME,
    "proxy-authorization": Kind.SCHEME,
    "x-authorization": Kind.SCHEME,
    "x-forwarded-authorization": Kind.SCHEME,
    "x-goog-iam-authorization-token": Kind.SCHEME,
    "x-serverless-authorization": Kind.SCHEME,
    "cookie": Kind.COOKIES,
    "set-cookie": Kind.SET_COOKIE,
    "x-goog-api-key": Kind.OPAQUE,
    "x-api-key": Kind.OPAQUE,
    "api-key": Kind.OPAQUE,
    "x-goog-user-project": Kind.OPAQUE,
    "x-guploader-uploadid": Kind.OPAQUE,
    "sec-websocket-key": Kind.OPAQUE,
    "sec-websocket-protocol": Kind.PROTOCOLS,
}
_URLS: Final = frozenset(
    [
        "content-location",
        "destination",
        "http-referer",
        "link",
        "location",
        "origin",
        "referer",
        "report-to",
        "reporting-endpoints",
        "sourcemap",
        "x-goog-upload-control-url",
        "x-goog-upload-url",
        "x-original-url",
        "x-rewrite-url",
    ]
)
_PLAIN: Final = frozenset(
    [
        "age",
        "allow",
        "alt-svc",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "cache-control",
        "cache-status",
        "cdn-cache-control",
        "cf-cache-status",
        "cf-ray",
        "connection",
        "date",
        "deprecation",
        "dnt",
        "early-data",
        "etag",
        "expect",
        "expires",
        "host",
        "http2-settings",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "last-modified",
        "max-forwards",
        "nel",
        "openai-beta",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "permissions-policy",
        "pragma",
        "prefer",
        "preference-applied",
        "priority",
        "proxy-authenticate",
        "proxy-connection",
        "proxy-status",
        "purpose",
        "range",
        "ratelimit",
        "ratelimit-policy",
        "referrer-policy",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "save-data",
        "sec-gpc",
        "sec-purpose",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-version",
        "server",
        "server-timing",
        "strict-transport-security",
        "sunset",
        "surrogate-control",
        "te",
        "timing-allow-origin",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-amzn-requestid",
        "x-amzn-trace-id",
        "x-cache",
        "x-cache-hits",
        "x-cache-mode",
        "x-client-request-id",
        "x-client-version",
        "x-cloud-trace-context",
        "x-content-type-options",
        "x-correlation-id",
        "x-dns-prefetch-control",
        "x-envoy-upstream-service-time",
        "x-exchange-id",
        "x-frame-options",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-goog-api-client",
        "x-goog-api-version",
        "x-goog-fieldmask",
        "x-goog-generation",
        "x-goog-hash",
        "x-goog-metageneration",
        "x-goog-request-params",
        "x-goog-request-reason",
        "x-goog-storage-class",
        "x-http-method-override",
        "x-permitted-cross-domain-policies",
        "x-powered-by",
        "x-replay-speed",
        "x-request-id",
        "x-requested-with",
        "x-robots-tag",
        "x-served-by",
        "x-server-timeout",
        "x-should-retry",
        "x-source-exchange-id",
        "x-timer",
        "x-title",
        "x-trace-id",
        "x-ua-compatible",
        "x-xss-protection",
    ]
)
_PLAIN_FAMILIES: Final = (
    "accept",
    "access-control-",
    "anthropic-ratelimit-",
    "content-",
    "cross-origin-",
    "if-",
    "ratelimit-",
    "sec-ch-",
    "sec-fetch-",
    "x-gemini-",
    "x-goog-stored-",
    "x-goog-upload-",
    "x-rate-limit-",
    "x-ratelimit-",
    "x-stainless-",
    "x-vertex-ai-",
)


def kind_of(name: str, recorded: frozenset[str] = frozenset()) -> Kind:
    """`recorded`: names that the user declares harmless; those of credentials stay credentials."""
    if name in _CREDENTIALS:
        return _CREDENTIALS[name]
    if name in _URLS or (name.startswith("x-goog-upload-") and "url" in name):
        return Kind.URL
    if name in _PLAIN or name in recorded or name.startswith(_PLAIN_FAMILIES):
        return Kind.PLAIN
    return Kind.OPAQUE
