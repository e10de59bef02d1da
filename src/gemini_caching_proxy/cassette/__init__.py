"""Cassettes: files of recorded exchanges that go into a repository and are answered from without store or network.

A cassette is one line of text (`gemini-proxy cassette 1`) and one zstd frame. Inside the frame is a stream of records,
each four bytes of length and a msgpack map, and an end record with the count and a BLAKE3 of all before it.

Why so: msgpack holds bytes as they are, where JSON would need base64, which hides from the compressor that each turn
of a session repeats the last; zstd's long-distance matching finds those repeats over 64 MiB, so a turn costs what is
new in it; maps with names let later versions add fields.

Invariants: the same exchanges give the same bytes (nothing in it depends on when or where it was written); no
credential, no fingerprint of one, no cookie, no address and no name of a machine is in it; a file that is cut off or
changed is noticed.
"""

from .answers import CassetteAnswers
from .files import CassetteWriter, LeftOut, read_cassette, write_cassette

__all__ = ["CassetteAnswers", "CassetteWriter", "LeftOut", "read_cassette", "write_cassette"]
