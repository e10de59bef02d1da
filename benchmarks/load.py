"""wrk as the load: a fixed number of connections, each sending its next request when the last answer is complete."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import machine, payloads

MARK = "BENCH "
SPARE_SECONDS = 30

SCRIPT = """
local file = assert(io.open("{body}", "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["x-goog-api-key"] = "{key}"
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{mark}{{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "errors": %d}}\\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


NUMBERED = """
local numbers = {numbers}
local before, after = wrk.body:match("^(.-){place}(.*)$")
-- Numbers of another run of this script begin elsewhere, so that none comes twice.
local asked, first = 0, os.time() * 1000000
request = function()
    local number = numbers > 0 and asked % numbers or first + asked
    asked = asked + 1
    return wrk.format(nil, nil, nil, before .. string.format("%0{digits}.0f", number) .. after)
end
"""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What wrk saw. Latencies are those under load, in microseconds; `errors` counts statuses over 399 too."""

    requests: int
    duration_us: int
    bytes: int
    p50_us: int
    p99_us: int
    errors: int

    @property
    def per_second(self) -> float:
        return self.requests / (self.duration_us / 1e6)


def write_script(folder: Path, body: bytes) -> Path:
    """A wrk script that posts `body`, and the body beside it."""
    payload = folder / "body.bin"
    payload.write_bytes(body)
    script = folder / "post.lua"
    script.write_text(SCRIPT.format(body=payload, key=payloads.CLIENT_KEY, mark=MARK))
    return script


def write_numbered_script(folder: Path, body: bytes, *, numbers: int | None = None) -> Path:
    """A wrk script that posts `body` with a number in the place of `payloads.NUMBER_PLACE`.

    Args:
        numbers: so many in turn, from 0 on; None for another one each time, in whatever run.
    """
    script = write_script(folder, body)
    place = payloads.NUMBER_PLACE.decode()
    script.write_text(
        script.read_text() + NUMBERED.format(numbers=numbers or 0, place=place, digits=len(payloads.NUMBER_PLACE))
    )
    return script


def parse(output: str) -> LoadResult:
    """Raises: ValueError when wrk did not print its summary."""
    for line in output.splitlines():
        if line.startswith(MARK):
            return LoadResult(**json.loads(line.removeprefix(MARK)))
    raise ValueError(f"wrk gave no summary: {output.strip()[-200:]!r}")


def run_wrk(
    fleet: machine.Fleet, cores: machine.Cores, url: str, script: Path, *, connections: int, seconds: int
) -> LoadResult:
    """Load `url` for `seconds`. Raises: ValueError without a summary, as when wrk hangs or is not installed."""
    if shutil.which("wrk") is None:
        raise ValueError("wrk is not installed (Debian: wrk)")
    log = script.with_name("wrk.log")
    log.unlink(missing_ok=True)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    process = fleet.start(command, cores=cores.load, log=log)
    try:
        process.wait(seconds + SPARE_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError("wrk did not end in time") from None
    finally:
        fleet.stop(process, gently=False)
    return parse(log.read_text(errors="replace"))
