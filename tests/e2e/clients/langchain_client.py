"""What a program with langchain-google-genai does; prints one JSON line per step."""

import json
import sys
import warnings

warnings.simplefilter("ignore")
from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings  # noqa: E402


def say(step, result):
    print(json.dumps([step, result]), flush=True)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def main():
    model = ChatGoogleGenerativeAI(
        model="gemini-2.5-flash", api_key="test-key-of-client", base_url=sys.argv[1], max_retries=1
    )
    answer = model.invoke("simulate 4 sentences")
    say(
        "invoke",
        [answer.text if isinstance(answer.text, str) else answer.text(), answer.usage_metadata["total_tokens"]],
    )
    say("stream", "".join(str(piece.content) for piece in model.stream("simulate 20 sentences")))
    called = model.bind_tools([weather]).invoke("weather in Graz?")
    say("tools", [[call["name"], call["args"]] for call in called.tool_calls])
    embedder = GoogleGenerativeAIEmbeddings(
        model="gemini-embedding-001", api_key="test-key-of-client", base_url=sys.argv[1]
    )
    say("embed", embedder.embed_query("one")[:4])


main()
