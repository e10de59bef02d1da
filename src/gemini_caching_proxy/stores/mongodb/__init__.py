"""The team store: one MongoDB database that any number of proxies share, readable in `mongosh`.

Facts about the layout, so that the modules make sense:

- `gemini_interactions` has one document per exchange: everything a list, a filter or a person wants, in the open, and
  what exact restoring needs besides. It is written last, so an exchange that is there is there as a whole.
- `gemini_parts` has content under its hash; `gemini_texts` the words of each text, for search.
- `gemini_state` orders writers (see `state.py`): exchanges get a `sequence`, and readers see up to the horizon.
- What follows from exchanges, rollups, sums, entries of the cache and their hits, is settled after them, in sequence
  order and exactly once, by whichever proxy holds the lease.
- No step needs a transaction, so a standalone server will do.
"""

from .inspection import Inspection, inspect
from .sharding import sharding_commands
from .store import MongoDBStore

__all__ = ["Inspection", "MongoDBStore", "inspect", "sharding_commands"]
