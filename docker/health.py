"""The image's health check: 0 when the proxy in this container serves and records, 1 when not.

It needs the standard library only, so that it starts fast. The port and whether it speaks TLS come from the variables
that `serve` reads; flags given to `serve` are not seen.
"""

# ruff: noqa: T201 - what it prints is what `docker inspect` shows

from __future__ import annotations

import http.client
import os
import ssl
import sys

SECONDS = 4.0


def main() -> int:
    port = int(os.environ.get("GEMINI_PROXY_PORT") or 8000)
    connection: http.client.HTTPConnection
    if os.environ.get("GEMINI_PROXY_TLS_CERT"):
        # The certificate is for the name that clients use, and this is the proxy itself.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}")
        return 1
    finally:
        connection.close()
    print(text)
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
