"""Files: resumable uploads (`X-Goog-Upload-*`), metadata, and downloads by way of a redirect.

An upload is hashed as it streams by; its bytes are not kept. Upload and download URLs are absolute on the simulator's
own address, as the real ones are on Google's. `files/generated-N` exists without an upload: N made-up bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .backend import Backend, Request, common_headers, json_reply, timestamp
from .paging import page_of
from .problems import ApiProblem, invalid_argument, not_found
from .reply import Headers, Reply

KEPT_SECONDS = 48 * 3600
PIECE = 256 * 1024
_GENERATED = re.compile(r"generated-(\d{1,12})$")

Finish = Callable[["Upload"], Awaitable[dict[str, Any]]]


@dataclass(slots=True)
class Upload:
    """One resumable upload under way. A chunk counts only when it came whole."""

    id: str
    mime_type: str
    metadata: dict[str, Any]
    finish: Finish
    declared: int | None
    received: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    state: str = "active"


@dataclass(slots=True)
class StoredFile:
    resource: dict[str, Any]
    polls_left: int = 0
    data: bytes | None = None
    """For downloadable files."""


class Files:
    """`/upload/{v}/files`, `{v}/files` and `/download/{v}/files`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._files: dict[str, StoredFile] = {}
        self.uploads: dict[str, Upload] = {}
        """By upload id."""

    async def start(self, request: Request) -> Reply:
        """`POST /upload/{v}/files`"""
        body = await request.json()
        metadata = body.get("file") if isinstance(body.get("file"), dict) else body
        return self.begin(request, dict(metadata or {}), self._finish_file)

    def begin(self, request: Request, metadata: dict[str, Any], finish: Finish) -> Reply:
        """Answers an upload's start with the URL that takes its bytes."""
        if (request.header("x-goog-upload-protocol") or "").lower() != "resumable":
            raise invalid_argument("Only the resumable upload protocol is simulated.")
        if "start" not in (request.header("x-goog-upload-command") or ""):
            raise invalid_argument("The first upload command must be `start`.")
        length = request.header("x-goog-upload-header-content-length")
        mime_type = request.header("x-goog-upload-header-content-type") or metadata.get("mimeType")
        upload = Upload(
            "AJ5r" + self._backend.new_name(60),
            str(mime_type or metadata.get("mime_type") or "application/octet-stream"),
            metadata,
            finish,
            int(length) if length and length.isdigit() else None,
        )
        self.uploads[upload.id] = upload
        url = f"{self._backend.own_url}{request.path}?upload_id={upload.id}&upload_protocol=resumable".encode()
        more = (
            (b"X-Goog-Upload-URL", url),
            (b"X-Goog-Upload-Control-URL", url),
            (b"X-Goog-Upload-Chunk-Granularity", b"%d" % self._backend.options.upload_granularity),
            (b"X-Goog-Upload-Header-Vary", b"Origin"),
            (b"X-GUploader-UploadID", upload.id.encode()),
        )
        return self._status(request, "active", more=more)

    async def put(self, request: Request) -> Reply:
        """A call to an upload URL: `upload`, `upload, finalize`, `finalize`, `query` or `cancel`."""
        upload = self.uploads.get(request.query.get("upload_id", ""))
        if upload is None:
            raise not_found("Upload session not found.")
        commands = {word.strip() for word in (request.header("x-goog-upload-command") or "").lower().split(",")}
        if "query" in commands:
            received = ((b"X-Goog-Upload-Size-Received", b"%d" % upload.received),)
            return self._status(request, upload.state, more=received)
        if "cancel" in commands:
            upload.state = "cancelled"
            return self._status(request, upload.state)
        if upload.state != "active" or not commands & {"upload", "finalize"}:
            raise ApiProblem(400, f"The upload is {upload.state}; the command was {sorted(commands)}.")
        if "upload" in commands:
            await self._take(request, upload, final="finalize" in commands)
        if "finalize" not in commands:
            return self._status(request, "active")
        upload.state = "final"
        resource = await upload.finish(upload)
        return json_reply(request, resource, more=((b"X-Goog-Upload-Status", b"final"),))

    async def list(self, request: Request) -> Reply:
        resources = [stored.resource for stored in self._files.values()]
        return json_reply(request, page_of(request, "files", resources))

    async def get(self, request: Request, name: str) -> Reply:
        stored = self._existing(name)
        if stored.polls_left > 0:
            stored.polls_left -= 1
        else:
            stored.resource["state"] = "ACTIVE"
        return json_reply(request, stored.resource)

    async def delete(self, request: Request, name: str) -> Reply:
        self._existing(name)
        self._files.pop(name, None)
        return json_reply(request, {})

    async def redirect(self, request: Request, name: str) -> Reply:
        """`files/{id}:download`: 302 to the download host, here the simulator itself."""
        self._downloadable(name)
        url = f"{self._backend.own_url}/download/{request.version or 'v1beta'}/files/{name}:download?alt=media"
        return json_reply(request, {}, status=302, more=((b"Location", url.encode()),))

    async def download(self, request: Request, name: str) -> Reply:
        size, pieces = self._downloadable(name)
        headers = ((b"Content-Type", b"application/octet-stream"), (b"Server", b"UploadServer"))
        return Reply(200, headers, pieces, "length", size)

    def add_generated(self, name: str, data: bytes, mime_type: str) -> None:
        """Makes a file that can be downloaded, as the API does with results."""
        digest = hashlib.sha256(data)
        stored = StoredFile(self._resource(name, mime_type, len(data), digest, {}), data=data)
        stored.resource |= {"source": "GENERATED", "downloadUri": f"{stored.resource['uri']}:download?alt=media"}
        self._files[name] = stored

    async def _take(self, request: Request, upload: Upload, *, final: bool) -> None:
        offset = request.header("x-goog-upload-offset") or "0"
        if not offset.isdigit() or int(offset) != upload.received:
            raise invalid_argument(f"The offset is {offset}, but {upload.received} bytes were received.")
        digest, size = upload.digest.copy(), 0
        async for piece in request.call.pieces():
            digest.update(piece)
            size += len(piece)
        granularity = self._backend.options.upload_granularity
        if not final and size % granularity:
            raise invalid_argument(f"A chunk of {size} bytes is no multiple of the granularity {granularity}.")
        upload.digest, upload.received = digest, upload.received + size
        if final and upload.declared is not None and upload.declared != upload.received:
            raise invalid_argument(f"{upload.declared} bytes were announced and {upload.received} received.")

    async def _finish_file(self, upload: Upload) -> dict[str, Any]:
        name = str(upload.metadata.get("name") or "").removeprefix("files/") or self._backend.new_name()
        resource = self._resource(name, upload.mime_type, upload.received, upload.digest, upload.metadata)
        polls = self._backend.options.file_polls if upload.mime_type.startswith("video/") else 0
        resource["state"] = "PROCESSING" if polls else "ACTIVE"
        self._files[name] = StoredFile(resource, polls)
        return {"file": resource}

    def _resource(
        self, name: str, mime_type: str, size: int, digest: hashlib._Hash, metadata: dict[str, Any]
    ) -> dict[str, Any]:
        shown = metadata.get("displayName") or metadata.get("display_name")
        return {
            "name": f"files/{name}",
            **({"displayName": shown} if shown else {}),
            "mimeType": mime_type,
            "sizeBytes": str(size),
            "createTime": timestamp(),
            "updateTime": timestamp(),
            "expirationTime": timestamp(KEPT_SECONDS),
            # The API's own oddity: base64 of the hex digits.
            "sha256Hash": base64.b64encode(digest.hexdigest().encode()).decode(),
            "uri": f"{self._backend.options.file_uri_base}/v1beta/files/{name}",
            "state": "ACTIVE",
            "source": "UPLOADED",
        }

    def _existing(self, name: str) -> StoredFile:
        stored = self._files.get(name)
        if stored is None:
            raise ApiProblem(403, f"You do not have permission to access the File {name} or it may not exist.")
        return stored

    def _downloadable(self, name: str) -> tuple[int, Iterator[bytes] | tuple[bytes, ...]]:
        generated = _GENERATED.fullmatch(name)
        if generated:
            size = int(generated[1])
            return size, generated_bytes(name, size)
        stored = self._existing(name)
        if stored.data is None:
            raise invalid_argument(f"File {name} was uploaded; only generated files can be downloaded.")
        return len(stored.data), (stored.data,)

    def _status(self, request: Request, state: str, *, more: Headers = ()) -> Reply:
        headers = common_headers(request, content_type=b"text/plain; charset=utf-8")
        return Reply(200, (*headers, (b"X-Goog-Upload-Status", state.encode()), *more), (), "length")


def generated_bytes(name: str, size: int) -> Iterator[bytes]:
    """`size` bytes that depend on the name alone, a piece at a time."""
    block = hashlib.shake_256(name.encode()).digest(PIECE)
    for start in range(0, size, PIECE):
        yield block[: size - start]
