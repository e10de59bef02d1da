"""Faults that are an answer of their own, well framed, in place of the API's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate

from gemini_caching_proxy.simulator.backend import Request, common_headers, json_reply, problem_reply
from gemini_caching_proxy.simulator.problems import with_status
from gemini_caching_proxy.simulator.reply import Reply

_REDIRECTS = {
    "localhost": b"http://127.0.0.1:9/admin",
    "metadata": b"http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token",
}
_PORTAL = b"""<!DOCTYPE html>
<html><head><title>Welcome to Station Wi-Fi</title></head>
<body><h1>Please accept the terms to go online</h1><form action="/accept"><button>Accept</button></form></body></html>
"""


def of_status(status: int) -> Callable[[Request, str], Reply]:
    """The usual error of a status; the argument is a Retry-After: seconds, `date` or `garbage`."""

    def refuse(request: Request, argument: str) -> Reply:
        reply = problem_reply(request, with_status(status, request.model or "gemini-2.5-flash"))
        waits = {"date": formatdate(usegmt=True).encode(), "garbage": b"soon-ish"}
        return reply.with_headers((b"Retry-After", waits.get(argument, argument.encode()))) if argument else reply

    return refuse


def echo_key(request: Request, argument: str) -> Reply:
    """STATUS: an error (401) that repeats the credential in its text."""
    status = int(argument or 401)
    key = request.header("x-goog-api-key") or request.query.get("key") or request.header("authorization") or ""
    message = f"The credential {key} was rejected."
    return json_reply(
        request, {"error": {"code": status, "message": message, "status": "UNAUTHENTICATED"}}, status=status
    )


def location_with_key(request: Request, argument: str) -> Reply:
    """A redirect whose address carries the credential."""
    key = request.header("x-goog-api-key") or request.query.get("key") or ""
    address = f"https://generativelanguage.googleapis.com/v1beta/elsewhere?key={key}"
    return json_reply(request, {}, status=302, more=((b"Location", address.encode()),))


def redirect(request: Request, argument: str) -> Reply:
    """WHERE: a redirect to `localhost`, to the cloud's `metadata` address, or to the URL given."""
    address = _REDIRECTS.get(argument, argument.encode() or _REDIRECTS["localhost"])
    return json_reply(request, {}, status=302, more=((b"Location", address),))


def captive_portal(request: Request, argument: str) -> Reply:
    """200 and a web page, as a hotel's network answers."""
    return Reply(200, common_headers(request, content_type=b"text/html; charset=utf-8"), (_PORTAL,))


def no_content(request: Request, argument: str) -> Reply:
    """204 with a body, which it cannot have."""
    return replace(json_reply(request, {"unexpected": True}, status=204), framing="length")


def not_modified(request: Request, argument: str) -> Reply:
    """304 with a body, which it cannot have."""
    return replace(json_reply(request, {"unexpected": True}, status=304), framing="length")
