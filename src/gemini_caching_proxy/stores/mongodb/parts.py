"""Parts: content under its hash, stored once whoever brings it. Long runs of references are parts of their own.

The name of a part says what it holds, so writing it again changes nothing, and proxies need not ask one another. What
is larger than a document may be goes to GridFS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from blake3 import blake3
from bson import ObjectId
from gridfs.asynchronous import AsyncGridFSBucket
from pymongo.errors import BulkWriteError

from gemini_caching_proxy.exchange import Headers
from gemini_caching_proxy.stores.codec import Codec
from gemini_caching_proxy.stores.facets import clean
from gemini_caching_proxy.stores.records import DIGEST_BYTES

from .connection import Database, Document, duplicates
from .schema import FILES, PARTS

LARGEST_INLINE: Final = 8 * 1024 * 1024
"""Bytes, as stored, of a part within its document."""
LONGEST_TEXT: Final = 256 * 1024
"""Characters of a part's text that are kept in the open; search has the words of all of it."""
SHORT: Final = 256
"""A part up to this size is kept in the open as it is: compressing would save nothing."""
READABLE: Final = 16 * 1024
"""A part without text is kept in the open up to this size."""
RUN: Final = 16
"""References that one list stands for."""

Kind = Literal["part", "headers", "chain", "list", "blob"]
Part = tuple[bytes, bytes, str]
"""Digest, data, text."""
_template_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes | None]])


@dataclass(slots=True)
class Draft:
    """A part as an exchange brings it."""

    digest: bytes
    data: bytes
    text: str = ""
    kind: Kind = "part"
    listed: tuple[bytes, ...] = ()
    """What a list stands for."""


@dataclass(slots=True)
class Interning:
    """Gives the parts of one exchange numbers, as `records.dissect` wants them."""

    drafts: list[Draft] = field(default_factory=list)

    def __call__(self, digest: bytes, data: bytes, text: str) -> int:
        self.drafts.append(Draft(digest, data, text))
        return len(self.drafts) - 1


def in_runs(references: Sequence[bytes]) -> tuple[list[bytes], list[Draft]]:
    """The references with every whole run of `RUN` replaced by a list, and those lists.

    Runs start at the front, where a longer turn of the same conversation begins alike.
    """
    whole = len(references) - len(references) % RUN
    lists = [_list_of(tuple(references[at : at + RUN])) for at in range(0, whole, RUN)]
    return [each.digest for each in lists] + list(references[whole:]), lists


def _list_of(listed: tuple[bytes, ...]) -> Draft:
    return Draft(blake3(b"list\0" + b"".join(listed)).digest(length=DIGEST_BYTES), b"", kind="list", listed=listed)


def part_document(draft: Draft, owner: UUID, sequence: int, epoch: int, codec: Codec) -> Document:
    """All but where a large one lies."""
    document: Document = {"_id": draft.digest, "kind": draft.kind, "owner": owner, "owner_sequence": sequence}
    document |= {"epoch": epoch, "size": len(draft.data)}
    if draft.kind == "list":
        return document | {"parts": list(draft.listed)}
    text = clean(draft.text)
    if text:
        document["text"] = text[:LONGEST_TEXT]
        document["text_cut"] = len(text) > LONGEST_TEXT
        if not document["text_cut"]:
            del document["text_cut"]
    if draft.kind == "headers":
        document["headers"] = _readable_headers(draft.data)
    # A text that is cut is kept whole with the data, compressed, where it repeats most of them.
    stored = draft.data + (text.encode() if "text_cut" in document else b"")
    body = _in_the_open(draft, text)
    if body is not None:
        return document | {"body": body}
    return document | {"data": codec.pack_beside(stored, _known(document))}


def _known(document: Document) -> bytes:
    text: str = document.get("text", "")
    return text.encode()


def _in_the_open(draft: Draft, text: str) -> str | None:
    if draft.kind != "part" or len(draft.data) > (READABLE if not text else SHORT):
        return None
    try:
        return draft.data.decode()
    except UnicodeDecodeError:
        return None


def _readable_headers(template: bytes) -> list[Document]:
    return [
        {"name": name.decode("latin-1"), "value": None if value is None else value.decode("latin-1")}
        for name, value in _template_decoder.decode(template)
    ]


def values_apart(template: bytes, headers: Headers) -> list[str]:
    """The values that a template of these headers leaves out, in order."""
    return [headers[place][1].decode("latin-1") for place in _places_apart(template)]


@lru_cache(maxsize=1024)
def _places_apart(template: bytes) -> tuple[int, ...]:
    return tuple(place for place, (_, value) in enumerate(_template_decoder.decode(template)) if value is None)


class PartWriter:
    """Writes parts; remembers which are there, until somebody sweeps."""

    def __init__(self, database: Database) -> None:
        self._collection = database[PARTS]
        self._codec = Codec()
        self._bucket = AsyncGridFSBucket(database, FILES)
        self._known: set[bytes] = set()
        self._epoch = -1

    def __repr__(self) -> str:
        return f"<PartWriter epoch={self._epoch} known={len(self._known)}>"

    MOST_KNOWN: Final = 200_000
    """Digests remembered, about 20 MB."""

    def begin(self, epoch: int) -> None:
        """Forget what is known if parts may have been deleted since."""
        if epoch != self._epoch or len(self._known) > self.MOST_KNOWN:
            self._known.clear()
            self._epoch = epoch

    def unknown(self, drafts: Iterable[Draft], brought: set[bytes]) -> Iterator[Draft]:
        """Those not known to be there, each once, and that the batch has not `brought` yet, to which they are added."""
        for draft in drafts:
            if draft.digest not in self._known and draft.digest not in brought:
                brought.add(draft.digest)
                yield draft

    def document(self, draft: Draft, owner: UUID, sequence: int) -> Document:
        return part_document(draft, owner, sequence, self._epoch, self._codec)

    async def write(self, documents: Sequence[Document]) -> set[bytes]:
        """Put them there and mark those that are there already as used in this epoch; which were not there.

        A sweep deletes parts of older epochs only (see `sweeping.py`), so what this was done for stays.
        """
        made: set[bytes] = set()
        left = [each for each in documents if len(each.get("data", b"")) <= LARGEST_INLINE]
        for document in documents:
            if len(document.get("data", b"")) > LARGEST_INLINE and await self._write_large(document):
                made.add(document["_id"])
        while left:
            there = await self._insert(left)
            made.update(each["_id"] for each in left if each["_id"] not in there)
            # What was swept away between the two steps is made anew.
            gone = there - await self._mark(there)
            left = [each for each in left if each["_id"] in gone]
        self._known.update(document["_id"] for document in documents)
        return made

    async def _insert(self, documents: Sequence[Document]) -> set[bytes]:
        """Which were there already."""
        try:
            await self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            return {documents[index]["_id"] for index in duplicates(error)}
        return set()

    async def _mark(self, digests: set[bytes]) -> set[bytes]:
        """Mark them as used in this epoch; which are there."""
        if not digests:
            return set()
        ids = {"$in": list(digests)}
        done = await self._collection.update_many({"_id": ids}, {"$max": {"epoch": self._epoch}})
        if done.matched_count == len(digests):
            return digests
        cursor = self._collection.find({"_id": ids, "epoch": {"$gte": self._epoch}}, {"_id": 1})
        return {document["_id"] async for document in cursor}

    async def _write_large(self, document: Document) -> bool:
        """Into a file of its own, unless the part is there; whether it was not."""
        data = document.pop("data")
        while not await self._mark({document["_id"]}):
            document["file"] = ObjectId()
            await self._bucket.upload_from_stream_with_id(document["file"], document["_id"].hex(), data)
            if not await self._insert([document]):
                return True
            await self._bucket.delete(document["file"])
        return False


class PartReader:
    """Reads parts, those behind lists too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bucket = AsyncGridFSBucket(database, FILES)
        self._codec = Codec()

    async def fetch(self, references: Iterable[bytes]) -> dict[bytes, Document]:
        """Documents by digest, of the lists among the references as well; large ones with their data."""
        found = await self._documents(set(references))
        listed = {each for document in found.values() if document["kind"] == "list" for each in document["parts"]}
        found |= await self._documents(listed - found.keys())
        for document in found.values():
            if "file" in document:
                stream = await self._bucket.open_download_stream(document["file"])
                document["data"] = await stream.read()
        return found

    async def _documents(self, digests: set[bytes]) -> dict[bytes, Document]:
        if not digests:
            return {}
        cursor = self._database[PARTS].find({"_id": {"$in": list(digests)}})
        return {document["_id"]: document async for document in cursor}

    def part(self, document: Document) -> Part:
        """What a part holds."""
        text: str = document.get("text", "")
        if "body" in document:
            return document["_id"], document["body"].encode(), text
        both = self._codec.unpack_beside(document["data"], _known(document))
        size: int = document["size"]
        if document.get("text_cut"):
            text = both[size:].decode()
        return document["_id"], both[:size], text


def expanded(references: Sequence[bytes], documents: dict[bytes, Document]) -> list[bytes]:
    """The references with lists replaced by what they stand for. Raises KeyError for one that is missing."""
    flat: list[Any] = []
    for reference in references:
        document = documents[reference]
        flat.extend(document["parts"] if document["kind"] == "list" else [reference])
    return flat
