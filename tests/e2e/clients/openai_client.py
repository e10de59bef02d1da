"""What a program with the openai SDK does on the OpenAI-compatible path; prints one JSON line per step."""

import asyncio
import json
import sys

import openai

BASE_URL = sys.argv[1] + "/v1beta/openai/"
MODEL = "gemini-2.5-flash"
MESSAGES = [{"role": "user", "content": "simulate 8 sentences"}]


def say(step, result):
    print(json.dumps([step, result]), flush=True)


def main():
    with openai.OpenAI(api_key="test-key-of-client", base_url=BASE_URL, max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
        say("chat", [answer.choices[0].message.content, answer.usage.total_tokens])
        stream = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        pieces = list(stream)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        say("stream", [text, next(piece.usage.total_tokens for piece in pieces if piece.usage)])
        embedded = client.embeddings.create(model="gemini-embedding-001", input="one")
        say("embed", embedded.data[0].embedding[:4])
        say("models", sorted(model.id for model in client.models.list())[:3])
        try:
            client.chat.completions.create(model="no-such-model", messages=MESSAGES)
        except openai.APIStatusError as error:
            say("error", error.status_code)
    asyncio.run(asynchronous())
    say("done", openai.__version__)


async def asynchronous():
    async with openai.AsyncOpenAI(api_key="test-key-of-client", base_url=BASE_URL, max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        pieces = [piece.choices[0].delta.content or "" async for piece in stream if piece.choices]
        say("async", "".join(pieces))


main()
