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


def may_be_zero(body: bytes) -> bool:
    """Whether some `temperature` may be 0.

    May say yes wrongly. Says no wrongly only where the key is written with escapes, which no client does and which
    costs no more than a miss: looking for those as well would double the time.
    """
    at = body.rfind(_KEY)
    while at >= 0:
        if _MAY_BE_ZERO.match(body, at + len(_KEY)) is not None:
            return True
        at = body.rfind(_KEY, 0, at)
    return False
