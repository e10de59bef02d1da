"""Moving records from one store into another, of whatever kinds, and looking whether they are there.

`Transfer` copies and can be stopped at any moment; `compare` reads both stores and says what differs. Both know the
stores by their contract alone.
"""

from .comparison import Comparison, Difference, compare
from .copying import Counts, Refused, Transfer, journal_name

__all__ = ["Comparison", "Counts", "Difference", "Refused", "Transfer", "compare", "journal_name"]
