"""A look at a body's bytes for a temperature of 0, in the worker, before anything is parsed."""

from __future__ import annotations

import re
from typing import Final

_KEY: Final = b'emperature"'
_MAY_BE_ZERO = re.compile(
    rb"""[ \t\r\n]*+:[ \t\r\n]*+"?+-?+(?:
        0(?!\.?[0-9]*[1-9])     # zeros only
        | 0\.0{300}             # so small that it becomes 0
        | [0-9][0-9.]*+[eE]-    # the same, with an exponent
    )""",
    re.VERBOSE,
)
_ESCAPED_LETTERS: Final = (rb"\u006", rb"\u007")
"""Begin the escapes of the letters in `temperature`, should a client write its keys so."""


def may_be_zero(body: bytes) -> bool:
    """Whether some `temperature` may be 0. May say yes wrongly, never no."""
    at = body.find(_KEY)
    while at >= 0:
        at += len(_KEY)
        if _MAY_BE_ZERO.match(body, at) is not None:
            return True
        at = body.find(_KEY, at)
    return b"\\u00" in body and any(escape in body for escape in _ESCAPED_LETTERS)
