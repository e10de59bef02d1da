"""Real client libraries against the simulator: what proves that its framing is the API's."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy.simulator import Simulator, SimulatorThread

genai = pytest.importorskip("google.genai")
openai = pytest.importorskip("openai")
from google.genai import errors, types  # noqa: E402

pytestmark = [
    # The SDK marks parts of itself as experimental by warnings.
    pytest.mark.filterwarnings("ignore::google.genai.errors.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
MODEL = "gemini-2.5-flash"


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Any]:
    with genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=simulator.url)) as client:
        yield client


@pytest.fixture
def chat_client(simulator: Simulator) -> Iterator[Any]:
    base_url = f"{simulator.url}/v1beta/openai/"
    with openai.OpenAI(api_key="test-key", base_url=base_url, max_retries=0) as client:
        yield client


def test_unary_and_stream_say_the_same(client: Any) -> None:
    whole = client.models.generate_content(model=MODEL, contents="simulate 12 sentences")
    pieces = list(client.models.generate_content_stream(model=MODEL, contents="simulate 12 sentences"))
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    assert pieces[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert pieces[-1].usage_metadata.total_token_count == whole.usage_metadata.total_token_count


def test_async(simulator: Simulator) -> None:
    async def talk() -> tuple[str, str]:
        client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=simulator.url))
        async with client.aio as aio:
            whole = await aio.models.generate_content(model=MODEL, contents="hello")
            stream = await aio.models.generate_content_stream(model=MODEL, contents="hello")
            return whole.text, "".join([piece.text or "" async for piece in stream])

    whole, streamed = asyncio.run(talk())
    assert whole == streamed != ""


def test_thoughts(client: Any) -> None:
    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    answer = client.models.generate_content(model=MODEL, contents="why?", config=config)
    thought, said = answer.candidates[0].content.parts
    assert thought.thought
    assert thought.text.startswith("**")
    assert said.thought_signature
    assert answer.usage_metadata.thoughts_token_count > 0


def test_chat_grows(client: Any, simulator: Simulator) -> None:
    chat = client.chats.create(model=MODEL)
    first = chat.send_message("first question")
    second = [piece.text for piece in chat.send_message_stream("second question")]
    assert first.text
    assert any(second)
    assert simulator.ledger.last.body_size > simulator.ledger.requests[0].body_size


def weather_in(city: str, days: int) -> str:
    """Tells the weather.

    Args:
        city: where.
        days: for how long.
    """
    return f"Sunny in {city} for {days} days"


@pytest.mark.parametrize("model", [MODEL, "gemini-3-flash-preview"])
def test_function_is_called_and_its_result_answered(client: Any, simulator: Simulator, model: str) -> None:
    config = types.GenerateContentConfig(tools=[weather_in])
    answer = client.models.generate_content(model=model, contents="what is the weather?", config=config)
    assert answer.text
    call, result = answer.automatic_function_calling_history[1:3]
    asked = call.parts[0].function_call
    assert asked.name == "weather_in"
    assert asked.id
    assert isinstance(asked.args["days"], int)
    assert call.parts[0].thought_signature
    assert result.parts[0].function_response.response == {"result": weather_in(**asked.args)}
    assert len(simulator.ledger.requests) == 2


def test_function_call_in_a_stream(client: Any) -> None:
    off = types.AutomaticFunctionCallingConfig(disable=True)
    config = types.GenerateContentConfig(tools=[weather_in], automatic_function_calling=off)
    pieces = list(client.models.generate_content_stream(model=MODEL, contents="weather?", config=config))
    assert [call.name for piece in pieces for call in piece.function_calls or []] == ["weather_in"]
    assert pieces[-1].candidates[0].finish_reason == types.FinishReason.STOP


def test_structured_output(client: Any) -> None:
    schema = {
        "type": "OBJECT",
        "properties": {"city": {"type": "STRING"}, "people": {"type": "INTEGER", "minimum": 5, "maximum": 9}},
        "required": ["city", "people"],
    }
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=schema)
    answer = client.models.generate_content(model=MODEL, contents="a city", config=config)
    assert set(answer.parsed) == {"city", "people"}
    assert 5 <= answer.parsed["people"] <= 9


def test_image(client: Any) -> None:
    config = types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"])
    answer = client.models.generate_content(model="gemini-2.5-flash-image", contents="draw", config=config)
    picture = next(part.inline_data for part in answer.candidates[0].content.parts if part.inline_data)
    assert picture.mime_type == "image/png"
    assert picture.data.startswith(b"\x89PNG\r\n\x1a\n")
    assert answer.usage_metadata.candidates_token_count >= 1290


def test_search(client: Any) -> None:
    config = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())])
    answer = client.models.generate_content(model=MODEL, contents="news", config=config)
    assert answer.candidates[0].grounding_metadata.grounding_chunks[0].web.uri
    assert answer.usage_metadata.tool_use_prompt_token_count > 0


def test_embeddings_and_token_counts(client: Any) -> None:
    config = types.EmbedContentConfig(output_dimensionality=16)
    found = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b", "a"], config=config)
    first, second, third = (embedding.values for embedding in found.embeddings)
    assert len(first) == 16
    assert first == third != second
    assert abs(sum(value * value for value in first) - 1) < 1e-6
    assert client.models.count_tokens(model=MODEL, contents="x" * 400).total_tokens == 100


def test_models_by_pages(client: Any, simulator: Simulator) -> None:
    names = [model.name for model in client.models.list(config={"page_size": 5})]
    assert len(names) == len(set(names)) > 10
    assert "models/gemini-2.5-flash" in names
    assert len(simulator.ledger.requests) == -(-len(names) // 5)
    assert client.models.get(model=MODEL).output_token_limit == 65536


@pytest.mark.parametrize("size", [0, 11, 8 * 1024 * 1024, 9 * 1024 * 1024 + 1])
def test_file_upload(client: Any, size: int) -> None:
    data = b"0123456789abcdef" * (size // 16 + 1)
    file = client.files.upload(file=io.BytesIO(data[:size]), config={"mime_type": "text/plain", "display_name": "d"})
    assert (file.size_bytes or 0, file.state, file.display_name) == (size, types.FileState.ACTIVE, "d")
    assert file.uri.startswith("https://generativelanguage.googleapis.com/v1beta/files/")
    assert client.files.get(name=file.name).uri == file.uri
    assert file.name in [other.name for other in client.files.list()]
    client.files.delete(name=file.name)
    with pytest.raises(errors.ClientError):
        client.files.get(name=file.name)


def test_file_upload_async(simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"n" * 100_000)

    async def upload() -> Any:
        client = genai.Client(api_key="test-key", http_options=types.HttpOptions(base_url=simulator.url))
        async with client.aio as aio:
            return await aio.files.upload(file=path)

    assert asyncio.run(upload()).size_bytes == 100_000


def test_upload_bytes_arrive_unchanged(client: Any, simulator: Simulator) -> None:
    data = bytes(range(256)) * 4000
    client.files.upload(file=io.BytesIO(data), config={"mime_type": "application/octet-stream"})
    assert simulator.ledger.last.body_sha256 == hashlib.sha256(data).hexdigest()


def test_download_by_redirect(client: Any, simulator: Simulator) -> None:
    data = client.files.download(file="files/generated-700000")
    assert len(data) == 700_000
    assert [entry.status for entry in simulator.ledger.requests] == [302, 200]


def test_cached_content(client: Any) -> None:
    cache = client.caches.create(model=MODEL, config={"contents": "long " * 500, "ttl": "300s"})
    assert cache.usage_metadata.total_token_count > 600
    config = types.GenerateContentConfig(cached_content=cache.name)
    answer = client.models.generate_content(model=MODEL, contents="hi", config=config)
    assert 0 < answer.usage_metadata.cached_content_token_count <= answer.usage_metadata.prompt_token_count
    assert client.caches.update(name=cache.name, config={"ttl": "600s"}).expire_time > cache.expire_time
    assert [other.name for other in client.caches.list()] == [cache.name]
    client.caches.delete(name=cache.name)
    assert list(client.caches.list()) == []


def test_batch(client: Any) -> None:
    inline = [{"contents": [{"parts": [{"text": "one"}], "role": "user"}]}, {"contents": "two"}]
    job = client.batches.create(model=MODEL, src=inline, config={"display_name": "b"})
    states = [job.state.name]
    while not job.done:
        job = client.batches.get(name=job.name)
        states.append(job.state.name)
    assert states == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
    assert all(item.response.text for item in job.dest.inlined_responses)
    assert len(job.dest.inlined_responses) == 2


def test_batch_from_a_file_ends_in_a_file(client: Any) -> None:
    job = client.batches.create(model=MODEL, src="files/requests")
    while not job.done:
        job = client.batches.get(name=job.name)
    lines = client.files.download(file=job.dest.file_name).splitlines()
    assert len(lines) == 3


def test_cancelled_batch(client: Any) -> None:
    job = client.batches.create(model=MODEL, src=[{"contents": "one"}])
    client.batches.cancel(name=job.name)
    assert client.batches.get(name=job.name).state.name == "JOB_STATE_CANCELLED"
    client.batches.delete(name=job.name)
    assert list(client.batches.list()) == []


def test_file_search_store(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "paris.txt"
    path.write_text("Paris is the capital of France.")
    store = client.file_search_stores.create(config={"display_name": "Test Store"})
    operation = client.file_search_stores.upload_to_file_search_store(file_search_store_name=store.name, file=path)
    document = operation.response.document_name
    assert document.startswith(store.name + "/documents/")
    assert client.operations.get(operation).done
    assert [found.name for found in client.file_search_stores.documents.list(parent=store.name)] == [document]
    with pytest.raises(errors.ClientError):
        client.file_search_stores.delete(name=store.name)
    client.file_search_stores.delete(name=store.name, config={"force": True})


def test_ephemeral_token(simulator: Simulator) -> None:
    options = types.HttpOptions(base_url=simulator.url, api_version="v1alpha")
    with genai.Client(api_key="test-key", http_options=options) as client:
        assert client.auth_tokens.create(config={"uses": 1}).name.startswith("auth_tokens/")


def test_interactions(client: Any) -> None:
    first = client.interactions.create(model=MODEL, input="Tell me a joke")
    assert first.status == "completed"
    second = client.interactions.create(model=MODEL, input="Another", previous_interaction_id=first.id)
    assert second.usage.total_input_tokens > first.usage.total_input_tokens
    assert client.interactions.get(id=first.id).id == first.id
    client.interactions.delete(id=first.id)
    with pytest.raises(Exception, match="was not found"):
        client.interactions.get(id=first.id)


def test_interactions_stream(client: Any) -> None:
    kinds = [event.event_type for event in client.interactions.create(model=MODEL, input="Tell me", stream=True)]
    assert kinds[:3] == ["interaction.created", "interaction.status_update", "step.start"]
    assert kinds[-1] == "interaction.completed"
    assert "step.delta" in kinds


@pytest.mark.parametrize(("status", "kind"), [(429, errors.ClientError), (503, errors.ServerError)])
def test_errors(client: Any, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        client.models.generate_content(model=f"sim-{status}", contents="hi")
    assert raised.value.code == status  # type: ignore[attr-defined]
    with pytest.raises(kind):
        list(client.models.generate_content_stream(model=f"sim-{status}", contents="hi"))


def test_error_within_a_stream(client: Any, simulator: Simulator) -> None:
    simulator.script("error-mid-stream:1")
    with pytest.raises(errors.ServerError):
        list(client.models.generate_content_stream(model=MODEL, contents="simulate 20 sentences"))


# The OpenAI-compatible path


def test_openai_chat(chat_client: Any) -> None:
    messages = [{"role": "user", "content": "simulate 9 sentences"}]
    whole = chat_client.chat.completions.create(model=MODEL, messages=messages)
    usage = whole.usage
    assert whole.choices[0].finish_reason == "stop"
    assert usage.total_tokens > usage.prompt_tokens + usage.completion_tokens, "thoughts count in the total alone"
    events = list(
        chat_client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(event.choices[0].delta.content for event in events if event.choices)
    assert said == whole.choices[0].message.content
    assert events[-1].usage == usage
    assert events[-1].choices == []


def test_openai_tools(chat_client: Any) -> None:
    function = {"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "time?"}]
    tools = [{"type": "function", "function": function}]
    first = chat_client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert call.function.name == "now"
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "noon"}]
    second = chat_client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert second.choices[0].message.content


def test_openai_embeddings(chat_client: Any) -> None:
    packed = chat_client.embeddings.create(model="gemini-embedding-001", input=["a", "b"], dimensions=8)
    plain = chat_client.embeddings.create(
        model="gemini-embedding-001", input=["a", "b"], dimensions=8, encoding_format="float"
    )
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


def test_openai_models_and_errors(chat_client: Any) -> None:
    assert "models/gemini-2.5-flash" in [model.id for model in chat_client.models.list()]
    with pytest.raises(openai.NotFoundError):
        chat_client.chat.completions.create(model="nope", messages=[{"role": "user", "content": "hi"}])


def test_same_seed_same_answer_other_seed_another() -> None:
    def ask(seed: int, times: int, *, fresh: bool = False) -> list[str]:
        with SimulatorThread(seed=seed, fresh=fresh) as simulator:
            options = types.HttpOptions(base_url=simulator.url)
            with genai.Client(api_key="k", http_options=options) as client:
                return [client.models.generate_content(model=MODEL, contents="hi").text for _ in range(times)]

    assert ask(1, 2) == ask(1, 2)
    assert ask(1, 1) != ask(2, 1)
    first, second = ask(1, 2, fresh=True)
    assert first != second
