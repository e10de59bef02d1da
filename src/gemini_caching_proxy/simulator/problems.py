"""Errors in the words and shapes of the Gemini API.

An `ApiProblem` is raised by handlers and rendered in the dialect of the request: an object, an array of one on the
OpenAI path and in JSON-array streams, a string code in the Interactions API.
"""

from __future__ import annotations

from typing import Any

_RPC = "type.googleapis.com/google.rpc."
SERVICE = "generativelanguage.googleapis.com"
STATUS_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
_INTERACTION_CODES = {400: "invalid_request", 401: "authentication", 403: "permission_denied", 404: "not_found",
                      429: "rate_limit_exceeded", 503: "overloaded"}  # fmt: skip


class ApiProblem(Exception):
    """A refusal with its place in the API's error model."""

    def __init__(
        self, code: int, message: str, *, status: str | None = None, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status or STATUS_WORDS.get(code, "UNKNOWN")
        self.details = details or []

    def body(self) -> dict[str, Any]:
        """`{"error": {code, message, status, details?}}`"""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}

    def interactions_body(self) -> dict[str, Any]:
        """`{"error": {"code": "invalid_request", "message": …}}`"""
        return {"error": {"code": _INTERACTION_CODES.get(self.code, "internal_error"), "message": self.message}}


def invalid_argument(message: str) -> ApiProblem:
    return ApiProblem(400, message)


def not_found(message: str) -> ApiProblem:
    return ApiProblem(404, message)


def unknown_model(model: str, version: str, operation: str) -> ApiProblem:
    return not_found(
        f"models/{model} is not found for API version {version}, or is not supported for {operation}. "
        "Call ListModels to see the list of available models and their supported methods."
    )


def no_credential() -> ApiProblem:
    return ApiProblem(
        403,
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
        "form of API consumer identity to call this API.",
    )


def too_many_credentials() -> ApiProblem:
    return invalid_argument("Multiple authentication credentials received. Please pass only one.")


def bad_credential(value: str) -> ApiProblem:
    """What a credential that is not accepted gets: 400 for the older keys, 401 for everything else."""
    if not value.startswith("AIza"):
        info = _error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED", {"service": SERVICE})
        return ApiProblem(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential.",
            details=[info],
        )
    message = "API key not valid. Please pass a valid API key."
    localized = {"@type": _RPC + "LocalizedMessage", "locale": "en-US", "message": message}
    info = _error_info("API_KEY_INVALID", {"service": SERVICE})
    return ApiProblem(400, message, details=[info, localized])


def quota_exceeded(model: str, retry_s: int = 48) -> ApiProblem:
    """429 with the three details that the API sends: which quota, where to read, when to come back."""
    metric = f"{SERVICE}/generate_content_free_tier_requests"
    violation = {
        "quotaMetric": metric,
        "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": "20",
    }
    link = {
        "description": "Learn more about Gemini API quotas",
        "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
    }
    return ApiProblem(
        429,
        f"You exceeded your current quota, please check your plan and billing details.\n* Quota exceeded for metric: "
        f"{metric}, limit: 20, model: {model}\nPlease retry in {retry_s}.5s.",
        details=[
            {"@type": _RPC + "QuotaFailure", "violations": [violation]},
            {"@type": _RPC + "Help", "links": [link]},
            {"@type": _RPC + "RetryInfo", "retryDelay": f"{retry_s}s"},
        ],
    )


def with_status(code: int, model: str) -> ApiProblem:
    """The usual problem of a status code."""
    if code == 429:
        return quota_exceeded(model)
    messages = {
        400: "Request contains an invalid argument.",
        403: "The caller does not have permission",
        404: f"models/{model} is not found for API version v1beta, or is not supported for generateContent.",
        499: "The operation was cancelled.",
        500: "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting",
        503: "The model is overloaded. Please try again later.",
        504: "The request timed out. Please try again.",
        529: "The service is overloaded.",
    }
    if code == 401:
        return bad_credential("")
    return ApiProblem(code, messages.get(code, "The request could not be answered."))


def _error_info(reason: str, metadata: dict[str, str]) -> dict[str, Any]:
    return {"@type": _RPC + "ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}
