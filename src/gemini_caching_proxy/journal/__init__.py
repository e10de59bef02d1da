"""Append-only files on local disk between a worker and the recorder.

A journal is one worker's run: segment files `{name}.{number}.journal` and a lock file that its writer holds for life.
Invariants: what `flush` reported as written survives the death of the process; order is kept; damage costs only the
frames it touches; an exchange is in the journal whole, or it is counted in a `Gap`. It knows nothing of what the
records mean.
"""

from .reader import JournalReader, Position
from .records import (
    FORMAT_VERSION,
    Begin,
    Cached,
    Chunk,
    End,
    Gap,
    HeaderPairs,
    Record,
    RequestChunk,
    ResponseHead,
    WholeExchange,
    Written,
)
from .segments import folder_bytes, journals
from .writer import JournalWriter

__all__ = [
    "FORMAT_VERSION",
    "Begin",
    "Cached",
    "Chunk",
    "End",
    "Gap",
    "HeaderPairs",
    "JournalReader",
    "JournalWriter",
    "Position",
    "Record",
    "RequestChunk",
    "ResponseHead",
    "WholeExchange",
    "Written",
    "folder_bytes",
    "journals",
]
