"""What a program with google-genai does, on the base URL given; prints one JSON line per step. Runs on 2.x and 3.x."""

import asyncio
import hashlib
import io
import json
import sys
import warnings

from google import genai
from google.genai import errors, types

warnings.simplefilter("ignore")
BASE_URL = sys.argv[1]
MODEL = "gemini-2.5-flash"


def say(step, result):
    print(json.dumps([step, result]), flush=True)


def connect():
    return genai.Client(api_key="test-key-of-client", http_options=types.HttpOptions(base_url=BASE_URL))


def usage(answer):
    counted = answer.usage_metadata
    return [counted.prompt_token_count, counted.candidates_token_count, counted.total_token_count]


def generation(client):
    answer = client.models.generate_content(model=MODEL, contents="simulate 5 sentences")
    say("unary", [answer.text, usage(answer), answer.candidates[0].finish_reason.name])
    pieces = list(client.models.generate_content_stream(model=MODEL, contents="simulate 30 sentences"))
    say("stream", ["".join(piece.text or "" for piece in pieces), len(pieces), usage(pieces[-1])])
    tools = types.Tool(
        function_declarations=[
            types.FunctionDeclaration(
                name="weather",
                parameters={"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
            )
        ]
    )
    answer = client.models.generate_content(
        model=MODEL, contents="weather in Graz?", config=types.GenerateContentConfig(tools=[tools])
    )
    say("tool call", [[call.name, call.args] for call in answer.function_calls])
    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    answer = client.models.generate_content(model=MODEL, contents="why?", config=config)
    say("thoughts", [[part.thought, part.text] for part in answer.candidates[0].content.parts])
    chat = client.chats.create(model=MODEL)
    say("chat", [chat.send_message("first").text, chat.send_message("second").text, len(chat.get_history())])


def other_calls(client):
    say("count", client.models.count_tokens(model=MODEL, contents="how many tokens are these").total_tokens)
    embedded = client.models.embed_content(model="gemini-embedding-001", contents=["one", "two"])
    say("embed", [embedding.values[:4] for embedding in embedded.embeddings])
    say("models", sorted(model.name for model in client.models.list())[:5])
    for model in ("no-such-model", "sim-429", "sim-503"):
        try:
            client.models.generate_content(model=model, contents="x")
        except errors.APIError as error:
            say("error " + model, [error.code, error.status])


def files(client):
    content = bytes(range(256)) * 40_000  # over one 8 MiB chunk
    stored = client.files.upload(
        file=io.BytesIO(content), config=types.UploadFileConfig(mime_type="application/octet-stream")
    )
    say("upload", [stored.size_bytes, stored.state.name if stored.state else None])
    say("get", client.files.get(name=stored.name).size_bytes)
    say("delete", client.files.delete(name=stored.name) is not None)


async def asynchronous():
    client = connect().aio
    answer = await client.models.generate_content(model=MODEL, contents="simulate 3 sentences")
    stream = await client.models.generate_content_stream(model=MODEL, contents="simulate 9 sentences")
    text = "".join([piece.text or "" async for piece in stream])
    say("async", [answer.text, hashlib.sha256(text.encode()).hexdigest()])


def main():
    with connect() as client:
        generation(client)
        other_calls(client)
        files(client)
    asyncio.run(asynchronous())
    say("done", genai.__version__)


main()
