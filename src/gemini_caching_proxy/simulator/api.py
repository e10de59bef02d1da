"""The endpoints: which handler answers which method and path, and the ones about models themselves."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Any

from . import content, models
from .answers import answer_for
from .backend import Backend, Request, array_reply, common_headers, json_reply, problem_reply, sse_reply
from .compat import OpenAICompat
from .generation import check_signatures, chunks_of, field, prompt_tokens, question_from, whole_of
from .interactions import Interactions
from .paging import page_of
from .problems import (
    ApiProblem,
    bad_credential,
    invalid_argument,
    no_credential,
    not_found,
    too_many_credentials,
    unknown_model,
)
from .reply import Reply
from .resources import Collections
from .uploads import Files

Handler = Callable[..., Awaitable[Reply]]
Route = tuple[str, re.Pattern[str], Handler]
_NOT_FOUND_PAGE = (
    b"<!DOCTYPE html>\n<html lang=en>\n  <title>Error 404 (Not Found)!!1</title>\n"
    b"  <p><b>404.</b> <ins>That\xe2\x80\x99s an error.</ins>\n  <p>The requested URL was not found on this server.\n"
)
_ALLOWED = (
    b"x-goog-api-key,x-goog-api-client,content-type,authorization,x-goog-upload-command,x-goog-upload-header-content-length,"
    b"x-goog-upload-header-content-type,x-goog-upload-offset,x-goog-upload-protocol,x-goog-upload-file-name"
)


class Api:
    """Requests to replies; see `routes`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.files = Files(backend)
        self._collections = Collections(backend, self.files)
        self._interactions = Interactions(backend)
        self._compat = OpenAICompat(backend)
        self._routes = self._compile(self._table())

    async def answer(self, request: Request) -> Reply:
        """The reply to a request, errors included."""
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            return _preflight(request)
        try:
            handler, names = self._route(request)
            self.check_credential(request)
            return await handler(request, *names)
        except ApiProblem as problem:
            return problem_reply(request, problem)
        except _NoRouteError:
            headers = common_headers(request, content_type=b"text/html; charset=UTF-8")
            return Reply(404, headers, (_NOT_FOUND_PAGE,), "length")

    def check_credential(self, request: Request) -> None:
        """One valid credential, or the API's words for what is wrong. Upload and download URLs need none."""
        options = self.backend.options
        if "upload_id" in request.query or request.area == "download" or not options.require_credential:
            return
        carried = _credentials(request)
        if not carried:
            raise no_credential()
        if len(carried) > 1:
            raise too_many_credentials()
        if options.accepted_keys is not None and carried[0] not in options.accepted_keys:
            raise bad_credential(carried[0])

    # models

    async def _list_models(self, request: Request) -> Reply:
        return json_reply(request, page_of(request, "models", [model.to_json() for model in models.CATALOGUE]))

    async def _get_model(self, request: Request, name: str) -> Reply:
        return json_reply(request, self._model(request, name, "getModel").to_json())

    async def _generate(self, request: Request, name: str) -> Reply:
        model = self._model(request, name, "generateContent")
        body = await request.json()
        question = question_from(name, body, thinks=model.thinks)
        check_signatures(name, body)
        seed = self.backend.options.seed
        answer = answer_for(question, seed, self.backend.nonce(request))
        tier = ((b"X-Gemini-Service-Tier", b"standard"),)
        return json_reply(request, whole_of(question, answer, version=model.version, seed=seed), more=tier)

    async def _stream(self, request: Request, name: str) -> Reply:
        model = self._model(request, name, "generateContent")
        body = await request.json()
        question = question_from(name, body, thinks=model.thinks)
        check_signatures(name, body)
        options = self.backend.options
        answer = answer_for(question, options.seed, self.backend.nonce(request))
        wanted = request.chunks(options.chunks)
        objects = chunks_of(question, answer, version=model.version, seed=options.seed, wanted=wanted)
        return sse_reply(request, objects) if request.sse else array_reply(request, objects)

    async def _count_tokens(self, request: Request, name: str) -> Reply:
        self._model(request, name, "countTokens")
        body = await request.json()
        counts = prompt_tokens(field(body, "generateContentRequest") or body)
        details = [{"modality": modality, "tokenCount": count} for modality, count in counts.items()]
        return json_reply(request, {"totalTokens": sum(counts.values()), "promptTokensDetails": details})

    async def _embed(self, request: Request, name: str) -> Reply:
        body = await request.json()
        vector, used = self._embedding(request, name, body)
        return json_reply(request, {"embedding": vector, "usageMetadata": {"promptTokenCount": used}})

    async def _batch_embed(self, request: Request, name: str) -> Reply:
        self._model(request, name, "embedContent")
        items = (await request.json()).get("requests")
        if not isinstance(items, list) or not items:
            raise invalid_argument("* BatchEmbedContentsRequest.requests: requests is not specified\n")
        embedded = [self._embedding(request, name, item) for item in items]
        used = sum(count for _, count in embedded)
        answer = {"embeddings": [vector for vector, _ in embedded], "usageMetadata": {"promptTokenCount": used}}
        return json_reply(request, answer)

    async def _predict(self, request: Request, name: str) -> Reply:
        self._model(request, name, "predict")
        rng = self.backend.rng(name, content.canonical(await request.json()))
        data = base64.b64encode(content.png(rng)).decode()
        return json_reply(request, {"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": data}]})

    def _embedding(self, request: Request, name: str, item: dict[str, Any]) -> tuple[dict[str, Any], int]:
        model = self._model(request, name, "embedContent")
        counts = prompt_tokens({"contents": [item.get("content") or {}]})
        size = int(field(item, "outputDimensionality") or model.dimensions)
        asked = content.canonical({"content": item.get("content"), "task": field(item, "taskType")})
        return {"values": content.embedding(self.backend.rng(name, asked), size)}, sum(counts.values())

    def _model(self, request: Request, name: str, operation: str) -> models.Model:
        model = models.find(name, self.backend.options.extra_models)
        if model is None or (operation not in model.methods and operation != "getModel"):
            raise unknown_model(name, request.version or "v1beta", operation)
        return model

    # routing

    def _route(self, request: Request) -> tuple[Handler, tuple[str, ...]]:
        area = f"{request.area}:" if request.area else ""
        method = "GET" if request.method == "HEAD" else request.method
        wrong_method = False
        for wanted, pattern, handler in self._routes:
            found = pattern.fullmatch(area + request.resource)
            if found and wanted == method:
                return handler, found.groups()
            wrong_method = wrong_method or found is not None
        if wrong_method:
            raise not_found(f"Method {method} is not allowed here.")
        raise _NoRouteError

    def _compile(self, table: list[tuple[str, str, Handler]]) -> list[Route]:
        return [(method, re.compile(pattern.replace("{}", "([^/:]+)")), handler) for method, pattern, handler in table]

    def _table(self) -> list[tuple[str, str, Handler]]:
        """(method, resource with `{}` for a name, handler); `upload:` and `download:` stand for those areas."""
        files, kept, talks, compat = self.files, self._collections, self._interactions, self._compat
        return [
            ("POST", "models/{}:generateContent", self._generate),
            ("POST", "models/{}:streamGenerateContent", self._stream),
            ("POST", "models/{}:countTokens", self._count_tokens),
            ("POST", "models/{}:embedContent", self._embed),
            ("POST", "models/{}:batchEmbedContents", self._batch_embed),
            ("POST", "models/{}:batchGenerateContent", kept.create_batch),
            ("POST", "models/{}:predict", self._predict),
            ("POST", "models/{}:predictLongRunning", kept.start_video),
            ("GET", "models", self._list_models),
            ("GET", "models/{}", self._get_model),
            ("POST", "upload:files", self._upload(files.start)),
            ("GET", "files", files.list),
            ("GET", "files/{}", files.get),
            ("DELETE", "files/{}", files.delete),
            ("GET", "files/{}:download", files.redirect),
            ("GET", "download:files/{}:download", files.download),
            ("POST", "cachedContents", kept.create_cache),
            ("GET", "cachedContents", kept.list_caches),
            ("GET", "cachedContents/{}", kept.get_cache),
            ("PATCH", "cachedContents/{}", kept.patch_cache),
            ("DELETE", "cachedContents/{}", kept.delete_cache),
            ("GET", "batches", kept.list_batches),
            ("GET", "(batches/[^/:]+)", kept.poll),
            ("POST", "batches/{}:cancel", kept.cancel_batch),
            ("DELETE", "batches/{}", kept.delete_batch),
            ("GET", "((?:.+/)?operations/[^/:]+)", kept.poll),
            ("POST", "fileSearchStores", kept.create_store),
            ("GET", "fileSearchStores", kept.list_stores),
            ("GET", "fileSearchStores/{}", kept.get_store),
            ("DELETE", "fileSearchStores/{}", kept.delete_store),
            ("POST", "upload:fileSearchStores/{}:uploadToFileSearchStore", self._upload(kept.upload_to_store)),
            ("POST", "fileSearchStores/{}:importFile", kept.import_file),
            ("GET", "fileSearchStores/{}/documents", kept.list_documents),
            ("GET", "(fileSearchStores/[^/:]+/documents/[^/:]+)", kept.get_document),
            ("DELETE", "(fileSearchStores/[^/:]+/documents/[^/:]+)", kept.delete_document),
            ("POST", "auth_tokens", kept.create_token),
            ("POST", "interactions", talks.create),
            ("GET", "interactions/{}", talks.get),
            ("DELETE", "interactions/{}", talks.delete),
            ("POST", "interactions/{}/cancel", talks.cancel),
            ("POST", "openai/chat/completions", compat.chat),
            ("POST", "openai/embeddings", compat.embeddings),
            ("GET", "openai/models", compat.list_models),
            ("GET", "openai/models/(.+)", compat.get_model),
        ]

    def _upload(self, start: Handler) -> Handler:
        """The same path starts an upload and, with an upload id, takes its bytes."""

        async def handler(request: Request, *names: str) -> Reply:
            if "upload_id" in request.query:
                return await self.files.put(request)
            return await start(request, *names)

        return handler


class _NoRouteError(Exception):
    pass


def _credentials(request: Request) -> list[str]:
    """Every credential a request carries, once per carrier; the Live API's token pair counts as one."""
    carried = [value.decode("latin-1") for name, value in request.call.headers if name.lower() == b"x-goog-api-key"]
    carried += [request.query[name] for name in ("key", "access_token") if name in request.query]
    for name, value in request.call.headers:
        if name.lower() == b"authorization":
            scheme, _, credential = value.decode("latin-1").partition(" ")
            if scheme.lower() != "token" or credential not in carried:
                carried.append(credential.strip())
    return [credential for credential in carried if credential]


def _preflight(request: Request) -> Reply:
    headers = (
        (b"Access-Control-Allow-Origin", request.call.header(b"origin") or b"*"),
        (b"Access-Control-Allow-Methods", b"DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT"),
        (b"Access-Control-Allow-Headers", _ALLOWED),
        (b"Access-Control-Max-Age", b"3600"),
        (b"Content-Type", b"text/html"),
        (b"Server", b"scaffolding on HTTPServer2"),
    )
    return Reply(200, headers, (), "length")
