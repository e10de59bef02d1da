"""SIGKILL for any process at any moment under load: an exchange whose last byte a client saw is in the record, once."""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from gemini_caching_proxy.exchange import Response
from gemini_caching_proxy.simulator import SimulatorThread

from .serving import ProxyProcess, arguments, free_port

KILLS = 200
SEED = 20261124
CLIENTS = 6
TARGETS = (
    "/v1beta/models/gemini-2.5-flash:generateContent",
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
)


class Client(threading.Thread):
    """Sends requests that nobody else sends, and keeps the hash of every answer it read to its end."""

    def __init__(self, number: int, port: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.seen: dict[str, str] = {}
        self.broken = 0
        self.stop = threading.Event()
        self._number = number
        self._port = port

    def run(self) -> None:
        count = 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self.stop.is_set():
            count += 1
            nonce = f"nonce-{self._number}-{count}"
            body = json.dumps({"contents": [{"role": "user", "parts": [{"text": f"{nonce} simulate 3 sentences"}]}]})
            try:
                connection.request(
                    "POST", TARGETS[count % 3], body, {"x-goog-api-key": f"key-of-client-{self._number}"}
                )
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self.broken += 1
                # Refused while a killed supervisor is replaced: ask again, but do not spin.
                self.stop.wait(0.01)
                continue
            if answer.status == 200:
                self.seen[nonce] = sha256(data).hexdigest()
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_acknowledged_exchange_is_lost(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    with SimulatorThread() as simulator:
        proxy = ProxyProcess(tmp_path, upstream=simulator.url, port=free_port(), drain_timeout=1, log_level="error")
        proxy.start()
        clients = [Client(number, proxy.port) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        killed: Counter[str] = Counter()
        try:
            while killed.total() < KILLS:
                # The moments are the point of this test: they are drawn, and wait for nothing.
                time.sleep(chance.uniform(0.02, 0.6))
                name = chance.choices(["worker", "recorder", "supervisor"], [5, 3, 1])[0]
                killed[name] += kill(proxy, name)
        finally:
            for client in clients:
                client.stop.set()
            for client in clients:
                client.join(30)
        exchanges = proxy.exchanges(timeout=120)
        proxy.stop()
    seen = {nonce: digest for client in clients for nonce, digest in client.seen.items()}
    print(f"killed {dict(killed)}, {len(seen)} acknowledged, {sum(client.broken for client in clients)} broken")
    assert len(seen) > KILLS
    stored: Counter[str] = Counter()
    for exchange in exchanges:
        nonce = nonce_of(exchange.request_body.data)
        if not nonce:
            # Its body had not come when the worker was killed.
            continue
        stored[nonce] += 1
        if nonce in seen:
            assert isinstance(exchange.outcome, Response), (nonce, exchange.outcome)
            assert sha256(exchange.outcome.body.data).hexdigest() == seen[nonce], nonce
    assert not [nonce for nonce in seen if not stored[nonce]], "lost"
    assert not [nonce for nonce, count in stored.items() if count > 1], "doubled"


def kill(proxy: ProxyProcess, name: str) -> int:
    """Kill one process if it runs just now; a dead supervisor is replaced as its user would."""
    if name == "supervisor":
        proxy.kill()
        proxy.start()
        return 1
    found = [child for child in psutil.Process(proxy.pid).children() if name in " ".join(arguments(child))]
    for child in found:
        child.send_signal(signal.SIGKILL)
    return len(found)


def nonce_of(body: bytes) -> str:
    text = json.loads(body)["contents"][0]["parts"][0]["text"] if body else ""
    return str(text).partition(" ")[0]
