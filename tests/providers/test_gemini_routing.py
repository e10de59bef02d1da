import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemini_caching_proxy.providers import providers
from gemini_caching_proxy.providers.base import Route

from .recorded import needs_traffic, request_lines

GENERATE = b"/v1beta/models/gemini-2.5-flash:generateContent"


def route(target: bytes, method: bytes = b"POST") -> Route:
    return providers()["gemini"].route(method, target)


@pytest.mark.parametrize(
    ("target", "upstream", "prefix"),
    [
        (GENERATE, GENERATE, b""),
        (b"/v1/models/gemini-2.5-flash:generateContent", b"/v1/models/gemini-2.5-flash:generateContent", b""),
        (b"/v1alpha/models/gemini-2.5-flash:generateContent", b"/v1alpha/models/gemini-2.5-flash:generateContent", b""),
        (b"/v1main/models/gemini-2.5-flash:generateContent", b"/v1main/models/gemini-2.5-flash:generateContent", b""),
        (b"/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/v1beta/v1/models/gemini-2.5-flash:generateContent", b"/v1/models/gemini-2.5-flash:generateContent", b""),
        (b"/v1/v1beta/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/v1beta/v1beta/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"//v1beta//models//gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/v1beta//models/gemini-2.5-flash:generateContent/", GENERATE, b""),
        (b"//models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/v1beta/models/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/v1beta/models/gemini-2.5-flash/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/models/models/gemini-2.5-flash:generateContent", GENERATE, b""),
        (b"/team-a" + GENERATE, GENERATE, b"/team-a"),
        (b"/team-a/dev" + GENERATE, GENERATE, b"/team-a/dev"),
        (b"/team-a//v1beta/v1beta/models/gemini-2.5-flash:generateContent", GENERATE, b"/team-a"),
        (b"/team-a/models/gemini-2.5-flash:generateContent", GENERATE, b"/team-a"),
        (b"/v1beta/openai" + GENERATE, GENERATE, b""),
        (b"/files", b"/v1beta/files", b""),
        (b"/upload/files", b"/upload/v1beta/files", b""),
        (b"/v1beta/upload/v1beta/files", b"/upload/v1beta/files", b""),
        (b"/v1beta/upload/files", b"/upload/v1beta/files", b""),
        (b"/gemini/upload/v1beta/files", b"/upload/v1beta/files", b"/gemini"),
        (b"/gemini/download/v1beta/files/a:download", b"/download/v1beta/files/a:download", b"/gemini"),
        (b"//ws/google.ai.generativelanguage.v1.X", b"/ws/google.ai.generativelanguage.v1.X", b""),
        (b"/team//ws/google.ai.generativelanguage.v1.X", b"/ws/google.ai.generativelanguage.v1.X", b"/team"),
        (b"/openai/chat/completions", b"/v1beta/openai/chat/completions", b""),
        (b"/v1beta/openai/v1/chat/completions", b"/v1beta/openai/chat/completions", b""),
        (b"/v1beta/v1/openai/chat/completions", b"/v1beta/openai/chat/completions", b""),
        (b"/v1beta/openai//chat/completions", b"/v1beta/openai/chat/completions", b""),
        (b"/v1/openai/chat/completions", b"/v1/openai/chat/completions", b""),
        (b"/team/v1beta/openai/embeddings", b"/v1beta/openai/embeddings", b"/team"),
        (b"/v1beta1/projects/p/locations/l/x", b"/v1beta1/projects/p/locations/l/x", b""),
        (b"/team/v1beta1/publishers/google/models/m:predict", b"/v1beta1/publishers/google/models/m:predict", b"/team"),
    ],
)
def test_paths_are_joined_as_clients_mean_them(target: bytes, upstream: bytes, prefix: bytes) -> None:
    found = route(target + b"?alt=sse&x=%2F//y")
    assert (found.upstream_target, found.prefix) == (upstream + b"?alt=sse&x=%2F//y", prefix)
    assert found.provider == "gemini"


@pytest.mark.parametrize(
    "target",
    [
        *(
            b"/",
            b"",
            b"*",
            b"/v1beta",
            b"/v1beta/",
            b"/favicon.ico",
            b"/robots.txt",
            b"/$discovery/rest?version=v1beta",
        ),
        *(b"/v1beta/new//things/x", b"/a//b/", b"/v1beta/..//models/x", b"/v1beta/%2e%2E/models/x:generateContent"),
        *(
            b"/v1beta/models/../files",
            b"/%76%31/models",
            b"/caf\xc3\xa9/\xff\x00",
            b"/v1beta/models%2Fx:generateContent",
        ),
        *(
            b"/v1/chat/completions",
            b"/v1beta/unknown/a/models/x:generateContent",
            b"/publishers/google/models/x:predict",
        ),
        *(b"/team/openai/chat/completions", b"/openai/surprise", b"/ws/other", b"/upload/x", b"/v2x/models/y"),
    ],
)
def test_unknown_paths_stay_byte_for_byte(target: bytes) -> None:
    found = route(target)
    assert (found.upstream_target, found.prefix) == (target, b"")
    assert (found.operation, found.model) == ("unknown", None)


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"/", b"v1beta", b"models", b"x:y", b"..", b"openai", b"upload", b"?"])).map(b"".join)
)
def test_any_target_has_a_route_and_its_query_is_untouched(target: bytes) -> None:
    found = route(target)
    assert found.upstream_target.partition(b"?")[1:] == target.partition(b"?")[1:]
    assert route(found.upstream_target).upstream_target == found.upstream_target, "what is put right stays right"


@pytest.mark.parametrize(
    ("method", "target", "operation", "model"),
    [
        ("POST", "/v1beta/models/m:streamGenerateContent?alt=sse", "stream_generate_content", "m"),
        ("POST", "/v1beta/models/m:countTokens", "count_tokens", "m"),
        ("POST", "/v1beta/models/m:embedContent", "embed_content", "m"),
        ("POST", "/v1beta/models/m:batchEmbedContents", "batch_embed_contents", "m"),
        ("POST", "/v1beta/models/m:batchGenerateContent", "batch_generate_content", "m"),
        ("POST", "/v1beta/models/m:asyncBatchEmbedContent", "async_batch_embed_content", "m"),
        ("POST", "/v1beta/models/m:predict", "predict", "m"),
        ("POST", "/v1beta/models/m:predictLongRunning", "predict_long_running", "m"),
        ("POST", "/v1beta/models/m:novelThing", "unknown", "m"),
        ("POST", "/v1beta/models/a%20b%3AgenerateContent", "generate_content", "a b"),
        ("POST", "/v1beta/tunedModels/t:generateContent", "generate_content", "tunedModels/t"),
        ("GET", "/v1beta/models?pageSize=5", "list_models", None),
        ("GET", "/v1beta/models/m", "get_model", "m"),
        ("GET", "/v1beta/models/m/operations/o", "get_operation", "m"),
        ("GET", "/v1beta/operations/o", "get_operation", None),
        ("POST", "/v1beta/cachedContents", "create_cached_content", None),
        ("GET", "/v1beta/cachedContents", "list_cached_contents", None),
        ("GET", "/v1beta/cachedContents/c", "get_cached_content", None),
        ("PATCH", "/v1beta/cachedContents/c?updateMask=ttl", "update_cached_content", None),
        ("DELETE", "/v1beta/cachedContents/c", "delete_cached_content", None),
        ("GET", "/v1beta/files", "list_files", None),
        ("GET", "/v1beta/files/f", "get_file", None),
        ("DELETE", "/v1beta/files/f", "delete_file", None),
        ("POST", "/v1beta/files:register", "register_files", None),
        ("GET", "/v1beta/files/f:download?alt=media", "download_file", None),
        ("GET", "/v1beta/files/f?alt=media", "download_file", None),
        ("GET", "/download/v1beta/files/f:download?alt=media", "download_file", None),
        ("POST", "/upload/v1beta/files", "upload_file", None),
        ("POST", "/upload/v1beta/files?upload_id=u&upload_protocol=resumable", "upload_chunk", None),
        ("POST", "/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore", "upload_to_file_search_store", None),
        ("PUT", "/upload/v1beta/environments/e/files/a/b.txt", "upload_environment_file", None),
        ("POST", "/v1beta/fileSearchStores", "create_file_search_store", None),
        ("GET", "/v1beta/fileSearchStores", "list_file_search_stores", None),
        ("GET", "/v1beta/fileSearchStores/s", "get_file_search_store", None),
        ("DELETE", "/v1beta/fileSearchStores/s?force=true", "delete_file_search_store", None),
        ("POST", "/v1beta/fileSearchStores/s:importFile", "import_file", None),
        ("GET", "/v1beta/fileSearchStores/s/documents", "list_documents", None),
        ("GET", "/v1beta/fileSearchStores/s/documents/d", "get_document", None),
        ("DELETE", "/v1beta/fileSearchStores/s/documents/d", "delete_document", None),
        ("GET", "/v1beta/fileSearchStores/s/upload/operations/o", "get_operation", None),
        ("GET", "/v1beta/batches", "list_batches", None),
        ("GET", "/v1beta/batches/b", "get_batch", None),
        ("POST", "/v1beta/batches/b:cancel", "cancel_batch", None),
        ("DELETE", "/v1beta/batches/b", "delete_batch", None),
        ("POST", "/v1beta/interactions", "create_interaction", None),
        ("GET", "/v1beta/interactions/i?stream=true", "get_interaction", None),
        ("DELETE", "/v1beta/interactions/i", "delete_interaction", None),
        ("POST", "/v1beta/interactions/i/cancel", "cancel_interaction", None),
        ("POST", "/v1alpha/auth_tokens", "create_auth_token", None),
        ("POST", "/v1beta/credentials", "create_credential", None),
        ("POST", "/v1beta/webhooks/w:ping", "ping_webhook", None),
        ("POST", "/v1beta/webhooks/w:rotateSigningSecret", "rotate_signing_secret", None),
        ("GET", "/v1beta/triggers/t/executions", "list_trigger_executions", None),
        ("GET", "/v1beta/environments/e/files/a/b/c", "get_environment_file", None),
        ("GET", "/v1beta/agents/a", "get_agent", None),
        ("GET", "/v1beta/voices", "list_voices", None),
        ("POST", "/v1/decisions", "create_decision", None),
        ("POST", "/v1beta/openai/chat/completions", "openai_chat_completions", None),
        ("POST", "/v1beta/openai/embeddings", "openai_embeddings", None),
        ("GET", "/v1beta/openai/models", "openai_models", None),
        ("GET", "/v1beta/openai/models/models/m", "openai_models", "m"),
        ("POST", "/v1beta/openai/images/generations", "openai_images", None),
        ("POST", "/v1beta1/projects/p/locations/l/publishers/google/models/m:generateContent", "generate_content", "m"),
        ("POST", "/v1beta1/publishers/google/models/m:streamGenerateContent", "stream_generate_content", "m"),
        (
            "POST",
            "/v1/projects/p/locations/l/publishers/anthropic/models/c@1:streamRawPredict",
            "stream_raw_predict",
            "c@1",
        ),
        ("GET", "/v1beta1/projects/p/locations/l/cachedContents/c", "get_cached_content", None),
        ("POST", "/v1/projects/p/locations/l/endpoints/openapi/chat/completions", "openai_chat_completions", None),
        ("POST", "/v1internal:streamGenerateContent?alt=sse", "stream_generate_content", None),
        ("POST", "/v1internal:loadCodeAssist", "load_code_assist", None),
        ("GET", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?key=k", "live", None),
        (
            "GET",
            "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateContentConstrained",
            "live",
            None,
        ),
        ("GET", "/ws/google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateMusic", "live_music", None),
        ("GET", "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent", "live", None),
    ],
)
def test_operations_and_models(method: str, target: str, operation: str, model: str | None) -> None:
    found = route(target.encode(), method.encode())
    assert (found.operation, found.model) == (operation, model)
    assert found.upstream_target == target.encode()


def test_the_openai_path_carries_a_key_as_bearer() -> None:
    assert route(b"/v1beta/openai/chat/completions").credential_style == "bearer"
    assert route(b"/openai/models", b"GET").credential_style == "bearer"
    assert route(GENERATE).credential_style == "x-goog-api-key"


def test_urls_that_are_credentials_need_no_key() -> None:
    assert route(b"/upload/v1beta/files?upload_id=u").needs_no_credential
    assert route(b"/ws/google.ai.generativelanguage.v1alpha.X?access_token=t", b"GET").needs_no_credential
    assert not route(b"/upload/v1beta/files?not_upload_id=u").needs_no_credential
    assert not route(GENERATE + b"?key=k").needs_no_credential


@pytest.mark.parametrize(
    ("method", "target", "withheld"),
    [
        (b"POST", b"/v1alpha/auth_tokens", True),
        (b"POST", b"/team/v1beta/webhooks/w:rotateSigningSecret", True),
        (b"POST", b"/v1beta/credentials", True),
        (b"POST", b"/v1beta/webhooks", True),
        (b"GET", b"/v1beta/webhooks", False),
        (b"POST", GENERATE, False),
    ],
)
def test_answers_that_are_secrets_are_withheld(method: bytes, target: bytes, withheld: bool) -> None:
    assert route(target, method).withhold_response is withheld


@needs_traffic
def test_every_request_line_that_clients_send_is_understood() -> None:
    lines = list(request_lines())
    assert len(lines) > 80
    for client, method, target in lines:
        found = route(target, method)
        assert found.operation != "unknown", (client, target)
        path = found.upstream_target.partition(b"?")[0]
        assert b"//" not in path
        assert path.count(b"/models/") <= 1, (client, target)
        assert route(found.upstream_target, method).upstream_target == found.upstream_target
