from __future__ import annotations

from gemini_caching_proxy.clients import CLIENTS, remark_at

URL = "http://127.0.0.1:8123"


def test_every_setting_names_the_proxy_it_is_for() -> None:
    for client in CLIENTS:
        text = "\n".join((*client.at(URL), remark_at(client, URL)))
        assert URL in text
        assert "{url}" not in text


def test_a_final_slash_is_not_doubled() -> None:
    for client in CLIENTS:
        assert client.at(URL + "/") == client.at(URL)
        assert f"{URL}//" not in "".join(client.at(URL + "/"))


def test_the_popular_ones_are_there() -> None:
    names = " ".join(client.client for client in CLIENTS)
    wanted = "google-genai, @google/genai, Gemini CLI, Cline, Roo Code, Continue, LangChain, OpenAI, curl"
    for name in wanted.split(", "):
        assert name in names
