"""The API's collections besides files: cached contents, batches, operations, file search stores, ephemeral tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from . import content, models
from .answers import answer_for
from .backend import Backend, Request, json_reply, timestamp
from .generation import field, prompt_tokens, question_from, whole_of
from .paging import page_of
from .problems import invalid_argument, not_found, unknown_model
from .reply import Reply
from .uploads import Files, Upload

_PACKAGE = "type.googleapis.com/google.ai.generativelanguage.v1main."
CACHE_TTL_S = 3600.0


@dataclass(slots=True)
class Job:
    """A long-running operation that finishes after some polls."""

    resource: dict[str, Any]
    polls_left: int
    result: dict[str, Any]
    """What `response` becomes."""
    is_batch: bool = False


class Collections:
    """Create, read, list, change and delete; names come from the backend, so they repeat with its seed."""

    def __init__(self, backend: Backend, files: Files) -> None:
        self._backend = backend
        self._files = files
        self._caches: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, Job] = {}
        self._stores: dict[str, dict[str, Any]] = {}
        self._documents: dict[str, dict[str, Any]] = {}

    # cachedContents

    async def create_cache(self, request: Request) -> Reply:
        body = await request.json()
        model = str(body.get("model", "")).removeprefix("models/")
        if models.find(model, self._backend.options.extra_models) is None:
            raise unknown_model(model, request.version, "createCachedContent")
        name = f"cachedContents/{self._backend.new_name(40)}"
        cache = {
            "name": name,
            "model": f"models/{model}",
            "createTime": timestamp(),
            "updateTime": timestamp(),
            "expireTime": body.get("expireTime") or timestamp(_ttl(body)),
            "displayName": field(body, "displayName") or "",
            "usageMetadata": {"totalTokenCount": sum(prompt_tokens(body).values())},
        }
        self._caches[name] = cache
        return json_reply(request, cache)

    async def list_caches(self, request: Request) -> Reply:
        return json_reply(request, page_of(request, "cachedContents", list(self._caches.values())))

    async def get_cache(self, request: Request, name: str) -> Reply:
        return json_reply(request, _found(self._caches, f"cachedContents/{name}"))

    async def patch_cache(self, request: Request, name: str) -> Reply:
        cache = _found(self._caches, f"cachedContents/{name}")
        body = await request.json()
        cache |= {"expireTime": body.get("expireTime") or timestamp(_ttl(body)), "updateTime": timestamp()}
        return json_reply(request, cache)

    async def delete_cache(self, request: Request, name: str) -> Reply:
        _found(self._caches, f"cachedContents/{name}")
        del self._caches[f"cachedContents/{name}"]
        return json_reply(request, {})

    # batches

    async def create_batch(self, request: Request, name: str) -> Reply:
        """`models/{m}:batchGenerateContent`, with inline requests or a file's name."""
        model = models.find(name, self._backend.options.extra_models)
        if model is None:
            raise unknown_model(name, request.version, "batchGenerateContent")
        batch = (await request.json()).get("batch") or {}
        config = field(batch, "inputConfig") or {}
        inline = (config.get("requests") or {}).get("requests") or []
        answers = [self._batch_answer(model, number, item) for number, item in enumerate(inline)]
        batch_name = f"batches/{self._backend.new_name(36)}"
        output: dict[str, Any]
        if inline:
            output = {"inlinedResponses": {"inlinedResponses": answers}}
        else:
            output = {"responsesFile": self._result_file(batch_name, field(config, "fileName"))}
        metadata = {
            "@type": _PACKAGE + "GenerateContentBatch",
            "model": f"models/{name}",
            "displayName": field(batch, "displayName") or "",
            "createTime": timestamp(),
            "updateTime": timestamp(),
            "batchStats": {"requestCount": str(len(inline) or 1), "pendingRequestCount": str(len(inline) or 1)},
            "state": "BATCH_STATE_PENDING",
            "name": batch_name,
        }
        resource = {"name": batch_name, "metadata": metadata}
        polls = self._backend.options.batch_polls
        self._jobs[batch_name] = Job(
            resource, polls, {"@type": _PACKAGE + "GenerateContentBatch", **output}, is_batch=True
        )
        return json_reply(request, resource)

    async def list_batches(self, request: Request) -> Reply:
        batches = [job.resource for job in self._jobs.values() if job.is_batch]
        return json_reply(request, page_of(request, "operations", batches))

    async def cancel_batch(self, request: Request, name: str) -> Reply:
        job = _found(self._jobs, f"batches/{name}")
        if not job.resource.get("done"):
            job.resource["metadata"]["state"] = "BATCH_STATE_CANCELLED"
            job.resource |= {"done": True, "error": {"code": 1, "message": "The batch was cancelled."}}
        return json_reply(request, {})

    async def delete_batch(self, request: Request, name: str) -> Reply:
        _found(self._jobs, f"batches/{name}")
        del self._jobs[f"batches/{name}"]
        return json_reply(request, {})

    # operations

    async def start_video(self, request: Request, name: str) -> Reply:
        """`models/{m}:predictLongRunning`"""
        await request.call.body()
        operation = f"models/{name}/operations/{self._backend.new_name()}"
        uri = f"{self._backend.options.file_uri_base}/v1beta/files/generated-200000:download?alt=media"
        samples = {"generatedSamples": [{"video": {"uri": uri}}]}
        result = {"@type": _PACKAGE + "PredictLongRunningResponse", "generateVideoResponse": samples}
        self._jobs[operation] = Job({"name": operation}, self._backend.options.batch_polls, result)
        return json_reply(request, {"name": operation})

    async def poll(self, request: Request, name: str) -> Reply:
        """A batch or an operation by its full name; each look brings it nearer to its end."""
        job = _found(self._jobs, name)
        if not job.resource.get("done"):
            _advance(job)
        return json_reply(request, job.resource)

    # fileSearchStores

    async def create_store(self, request: Request) -> Reply:
        shown = field(await request.json(), "displayName") or ""
        plain = "".join(letter for letter in shown.lower() if letter.isalnum()) or "store"
        name = f"fileSearchStores/{plain}-{self._backend.new_name()}"
        self._stores[name] = {
            "name": name,
            "displayName": shown,
            "createTime": timestamp(),
            "updateTime": timestamp(),
            "embeddingModel": "models/gemini-embedding-001",
        }
        return json_reply(request, self._stores[name])

    async def list_stores(self, request: Request) -> Reply:
        return json_reply(request, page_of(request, "fileSearchStores", list(self._stores.values())))

    async def get_store(self, request: Request, name: str) -> Reply:
        return json_reply(request, _found(self._stores, f"fileSearchStores/{name}"))

    async def delete_store(self, request: Request, name: str) -> Reply:
        full = f"fileSearchStores/{name}"
        _found(self._stores, full)
        inside = [document for document in self._documents if document.startswith(full + "/")]
        if inside and request.query.get("force", "").lower() != "true":
            raise invalid_argument("Cannot delete non-empty FileSearchStore.")
        for document in inside:
            del self._documents[document]
        del self._stores[full]
        return json_reply(request, {})

    async def upload_to_store(self, request: Request, name: str) -> Reply:
        """`POST /upload/{v}/fileSearchStores/{s}:uploadToFileSearchStore`: starts a resumable upload."""
        _found(self._stores, f"fileSearchStores/{name}")

        async def finish(upload: Upload) -> dict[str, Any]:
            return self._add_document(name, upload.mime_type, upload.received, "upload/operations")

        return self._files.begin(request, await request.json(), finish)

    async def import_file(self, request: Request, name: str) -> Reply:
        _found(self._stores, f"fileSearchStores/{name}")
        await request.call.body()
        return json_reply(request, self._add_document(name, "text/plain", 0, "operations"))

    async def list_documents(self, request: Request, name: str) -> Reply:
        prefix = f"fileSearchStores/{name}/"
        inside = [document for key, document in self._documents.items() if key.startswith(prefix)]
        return json_reply(request, page_of(request, "documents", inside))

    async def get_document(self, request: Request, name: str) -> Reply:
        return json_reply(request, _found(self._documents, name))

    async def delete_document(self, request: Request, name: str) -> Reply:
        _found(self._documents, name)
        del self._documents[name]
        return json_reply(request, {})

    # auth_tokens

    async def create_token(self, request: Request) -> Reply:
        """An ephemeral token for the Live API: the answer is itself a secret."""
        await request.call.body()
        return json_reply(request, {"name": f"auth_tokens/{self._backend.new_name(64)}"})

    def _add_document(self, store: str, mime_type: str, size: int, kind: str) -> dict[str, Any]:
        key = self._backend.new_name()
        parent = f"fileSearchStores/{store}"
        document = f"{parent}/documents/{key}"
        self._documents[document] = {
            "name": document,
            "displayName": key,
            "mimeType": mime_type,
            "sizeBytes": str(size),
            "state": "STATE_ACTIVE",
            "createTime": timestamp(),
            "updateTime": timestamp(),
        }
        operation = f"{parent}/{kind}/{key}"
        result = {
            "@type": _PACKAGE + "UploadToFileSearchStoreResponse",
            "documentName": document,
            "mimeType": mime_type,
            "parent": parent,
            "sizeBytes": str(size),
        }
        self._jobs[operation] = Job({"name": operation, "done": True, "response": result}, 0, result)
        return {"name": operation, "response": result}

    def _batch_answer(self, model: models.Model, number: int, item: dict[str, Any]) -> dict[str, Any]:
        question = question_from(model.name, item.get("request") or {}, thinks=model.thinks)
        answer = answer_for(question, self._backend.options.seed)
        response = whole_of(question, answer, version=model.version, seed=self._backend.options.seed)
        return {"response": response, "metadata": item.get("metadata") or {"key": str(number)}}

    def _result_file(self, batch: str, source: object) -> str:
        name = "batch-" + batch.removeprefix("batches/")
        rng = self._backend.rng(str(source))
        lines = (
            {
                "key": f"request-{number}",
                "response": {"candidates": [{"content": {"parts": [{"text": content.prose(rng)}]}}]},
            }
            for number in range(3)
        )
        self._files.add_generated(
            name, "".join(json.dumps(line) + "\n" for line in lines).encode(), "application/jsonl"
        )
        return f"files/{name}"


def _advance(job: Job) -> None:
    job.polls_left -= 1
    metadata = job.resource.get("metadata")
    if job.polls_left > 0:
        if metadata is not None:
            metadata["state"] = "BATCH_STATE_RUNNING"
        return
    job.resource |= {"done": True, "response": job.result}
    if metadata is not None:
        stats = {"requestCount": metadata["batchStats"]["requestCount"]}
        output = {name: value for name, value in job.result.items() if name != "@type"}
        metadata |= {
            "state": "BATCH_STATE_SUCCEEDED",
            "endTime": timestamp(),
            "updateTime": timestamp(),
            "batchStats": stats | {"successfulRequestCount": stats["requestCount"]},
            "output": output,
        }


def _ttl(body: dict[str, Any]) -> float:
    text = str(body.get("ttl") or f"{CACHE_TTL_S}s")
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        raise invalid_argument(f"Invalid value at 'cached_content.ttl': {text}") from None


def _found(collection: dict[str, Any], name: str) -> Any:
    try:
        return collection[name]
    except KeyError:
        raise not_found(f"Requested entity was not found: {name}") from None
