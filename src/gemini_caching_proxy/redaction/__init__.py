"""Secrets are replaced by keyed fingerprints before anything is written: in heads, targets, bodies, logs.

A fingerprint is `fp_` and 16 hex digits, the same for the same secret under the same key, so exchanges can be grouped
by credential without knowing one. Invariants: a header that is not known to be harmless is never written as it came; an
exchange's own credentials are found in every encoding listed in `needles.py`, however the bytes are cut into chunks;
work is linear in the input. What it does not do: find secrets that have no known shape and did not come as a
credential, or look inside compressed bodies that no error made suspicious.
"""

from .fingerprints import load_fingerprint_key
from .formats import DOCUMENTED_FORMATS
from .needles import Needles
from .redactor import Redactor
from .scrubber import BodyScrubber

__all__ = ["DOCUMENTED_FORMATS", "BodyScrubber", "Needles", "Redactor", "load_fingerprint_key"]
