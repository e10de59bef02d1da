"""Real client programs, once on the simulator itself and once through the proxy: they must not notice a difference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gemini_caching_proxy.exchange import Exchange, Response
from gemini_caching_proxy.simulator import SimulatorThread

from .serving import ProxyProcess

CHECKOUT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
SDK2 = CHECKOUT / ".venvs/sdk2/bin/python"
NODE_MODULES = CHECKOUT / ".venvs/node"

pytestmark = pytest.mark.slow

PROGRAMS = {
    "google-genai 3.x": [sys.executable, str(CLIENTS / "genai_client.py")],
    "google-genai 2.x": [str(SDK2), str(CLIENTS / "genai_client.py")],
    "openai": [sys.executable, str(CLIENTS / "openai_client.py")],
    "langchain-google-genai": [str(SDK2), str(CLIENTS / "langchain_client.py")],
    "@google/genai": ["node", str(CLIENTS / "node_client.mjs")],
}


def run(program: str, base_url: str) -> list[list[Any]]:
    command = [*PROGRAMS[program], base_url]
    if program == "@google/genai":
        command.append(str(NODE_MODULES))
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def need(program: str) -> None:
    if program == "@google/genai" and (not shutil.which("node") or not (NODE_MODULES / "node_modules").is_dir()):
        pytest.skip("Node.js or its @google/genai (make .venvs/node/stamp) is not installed")
    if str(SDK2) in PROGRAMS[program] and not SDK2.exists():
        pytest.skip("the second environment (make .venvs/sdk2/stamp) is not installed")


@pytest.mark.parametrize("prefix", ["", "/team-a"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_difference_and_everything_is_recorded(program: str, prefix: str, tmp_path: Path) -> None:
    need(program)
    if prefix and program not in ("google-genai 3.x", "google-genai 2.x"):
        pytest.skip("this client drops or never has a path prefix")
    with SimulatorThread() as simulator:
        direct = run(program, simulator.url)
        asked = Counter(request.target.partition(b"?")[0] for request in simulator.ledger.requests)
    with SimulatorThread() as simulator, ProxyProcess(tmp_path, upstream=simulator.url) as proxy:
        through = run(program, proxy.url + prefix)
        asked_through = Counter(request.target.partition(b"?")[0] for request in simulator.ledger.requests)
        exchanges = proxy.exchanges()
    assert through == direct
    assert asked_through.total() == asked.total(), "every call comes through the proxy, uploads included"
    assert len(exchanges) == asked.total()
    check_record(exchanges)


def check_record(exchanges: list[Exchange]) -> None:
    for exchange in exchanges:
        assert isinstance(exchange.outcome, Response), exchange
        assert exchange.operation != "unknown", exchange.target
        if exchange.outcome.status == 200 and "generate_content" in exchange.operation:
            assert exchange.usage is not None
            assert exchange.usage.total_tokens
            assert exchange.price is not None
            assert exchange.finish_reason == "STOP"
            assert exchange.response_text or b"functionCall" in exchange.outcome.body.data
    fingerprints = {exchange.credential for exchange in exchanges}
    assert len(fingerprints) == 1, "uploads count for whoever began them"
    assert fingerprints.pop()
