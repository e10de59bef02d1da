"""The benchmark's arithmetic, its readers, and one small run of its own machinery."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import psutil
import pytest
from benchmarks import (
    agent_session,
    cached,
    collapse,
    figures,
    latency,
    load,
    machine,
    million,
    payloads,
    replay,
    report,
    streams,
    throughput,
)
from benchmarks import nginx as nginx_config
from benchmarks.__main__ import Run, if_full, parse_options
from benchmarks.client import Connection, HeadReader, request_bytes
from benchmarks.subjects import DIRECT, NGINX, PROXY, AbsentError, Laboratory, Subject, wanted_subjects
from hypothesis import given
from hypothesis import strategies as st

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FLOATS, min_size=1), st.floats(0, 100))
def test_percentile_is_a_value_with_enough_values_at_or_below_it(values: list[float], percent: float) -> None:
    found = figures.percentile(values, percent)
    assert found in values
    assert sum(each <= found for each in values) >= len(values) * percent / 100 - 1e-6
    assert sum(each < found for each in values) <= len(values) * percent / 100


def test_percentile_of_nothing_and_beyond_the_whole_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one"):
        figures.percentile([], 50)
    with pytest.raises(ValueError, match="101"):
        figures.percentile([1.0], 101)


def test_ratio_is_taken_within_rounds_and_survives_a_change_of_speed() -> None:
    ours = {1: 50.0, 2: 500.0, 3: 5.0}
    theirs = {1: 100.0, 2: 1000.0, 3: 10.0}
    assert figures.ratio_by_round(ours, theirs) == 0.5
    assert figures.ratio_by_round(ours, {4: 1.0}) is None
    assert figures.ratio_by_round({1: 3.0}, {1: 0.0}) is None


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("small_vs_nginx", 0.5, "pass"),
        ("small_vs_nginx", 0.499, "MISS"),
        ("added_p99_ms", 3.0, "pass"),
        ("added_p99_ms", 3.01, "MISS"),
        ("streams_lost", 1.0, "MISS"),
        ("session_store_percent", None, "absent"),
    ],
)
def test_verdicts(key: str, value: float | None, word: str) -> None:
    found = {each.target.key: each.word for each in figures.judge({key: value}, {})}
    assert found[key] == word


def test_requests_have_their_size_and_differ_by_seed() -> None:
    small = payloads.request_body(payloads.SMALL_BYTES)
    assert len(small) == payloads.SMALL_BYTES
    assert small == payloads.request_body(payloads.SMALL_BYTES)
    assert small != payloads.request_body(payloads.SMALL_BYTES, seed=1)
    agent = payloads.request_body(payloads.AGENT_BYTES)
    assert len(agent) == payloads.AGENT_BYTES
    assert len(json.loads(agent)["contents"]) > 40


def test_numbered_requests_differ_in_their_number_alone() -> None:
    body = payloads.numbered_body()
    one, other = (payloads.with_number(body, number) for number in (7, 12345))
    assert len(one) == len(other) == payloads.SMALL_BYTES
    assert one.replace(b"%016d" % 7, b"%016d" % 12345) == other != one
    assert json.loads(one)["generationConfig"]["temperature"] == 0


def test_stream_events_are_in_googles_framing() -> None:
    events = payloads.stream_events()
    assert len(events) == payloads.EVENTS_PER_STREAM
    assert all(each.startswith(b"data: {") and each.endswith(b"}\r\n\r\n") for each in events)
    finished = ["finishReason" in json.loads(each[6:])["candidates"][0] for each in events]
    assert finished == [False] * 99 + [True]


def test_session_repeats_all_that_was_before_and_ends_over_400_kb() -> None:
    script = agent_session.Script(agent_session.TURNS)
    script.server.server_close()
    bodies = [json.loads(each) for each in agent_session.requests(script)]
    assert len(bodies) == 200
    assert len(json.dumps(bodies[-1])) >= 400_000
    assert all(later["contents"][: len(one["contents"])] == one["contents"] for one, later in pairwise(bodies))
    tools = {json.dumps(each) for each in bodies[-1]["contents"]}
    assert len(tools) == len(bodies[-1]["contents"])


def test_load_summary_is_read_and_its_absence_is_an_error() -> None:
    line = 'BENCH {"requests": 10, "duration_us": 2000000, "bytes": 1, "p50_us": 1, "p99_us": 2, "errors": 0}'
    assert load.parse(f"Running\n{line}\n").per_second == 5
    with pytest.raises(ValueError, match="no summary"):
        load.parse("unable to connect")


def sample(subject: str, number: int, rate: float, *, busy: float = 1.0, others: float = 0.0) -> throughput.Sample:
    return throughput.Sample(subject, number, rate, 1, 2, 0, 10.0, busy, others, 20.0, None, None)


def test_summary_has_medians_and_ratios_of_neighbours() -> None:
    samples = [
        sample(PROXY, 1, 30),
        sample(NGINX, 1, 60),
        sample(PROXY, 2, 10),
        sample(NGINX, 2, 10),
        sample(PROXY, 3, 9),
    ]
    summary = throughput.summary_of(samples, PROXY)
    assert (summary["per_second"], summary["ratio_to_nginx"], summary["ratio_to_naive"]) == (10, 0.75, None)
    assert summary["cpu_us_per_request"] == 10.0
    assert throughput.ratio({"summary": {PROXY: summary}}, NGINX) == 0.75
    assert throughput.ratio({"summary": {}}, NGINX) is None


@pytest.mark.parametrize(
    ("available", "subject", "rest"), [([0, 1], {0}, {1}), ([3], {3}, {3}), ([2, 5, 7], {2}, {5, 7})]
)
def test_cores_are_kept_apart_where_there_are_two(available: list[int], subject: set[int], rest: set[int]) -> None:
    cores = machine.split_cores(available)
    assert (set(cores.subject), set(cores.load), cores.apart) == (subject, rest, subject != rest)


def test_cautions_say_who_disturbed_a_round_and_who_set_the_pace() -> None:
    assert throughput.cautions([sample(PROXY, 1, 10), sample(NGINX, 1, 10, busy=0.5)]) == []
    (idle,) = throughput.cautions([sample(PROXY, 1, 10, busy=0.5)])
    assert "50% busy" in idle
    (disturbed,) = throughput.cautions([sample(NGINX, 1, 10, others=0.3)])
    assert "30% of the core of nginx" in disturbed


def test_core_time_grows_by_what_runs_on_the_core() -> None:
    core = [min(os.sched_getaffinity(0))]
    before = machine.core_seconds(core)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    os.sched_setaffinity(0, allowed)
    assert machine.core_seconds(core) - before >= 0.1


def test_options_name_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--only", "smal"])
    assert "smal" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_options(["--subjects", "apache"])
    assert "apache" in capsys.readouterr().err
    assert wanted_subjects(["proxy", "direct"]) == (DIRECT, PROXY)


def test_report_is_json_with_the_verdicts(tmp_path: Path) -> None:
    verdicts = figures.judge({"list_ms": 250.0}, {"search_ms": "no store"})
    report.save(tmp_path / "new" / "run.json", {"machine": {}}, verdicts)
    lines = json.loads((tmp_path / "new" / "run.json").read_text())["must_reach"]
    assert {each["key"]: each["verdict"] for each in lines} == {"list_ms": "MISS", "search_ms": "absent"}


def test_a_fleet_ends_what_it_started_and_its_children(tmp_path: Path) -> None:
    fleet = machine.Fleet()
    sleep = "import time; time.sleep(60)"
    nested = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}]); print('up', flush=True); {sleep}"
    )
    log = tmp_path / "log"
    process = fleet.start([sys.executable, "-c", nested], cores=os.sched_getaffinity(0), log=log)
    deadline = time.monotonic() + 20
    while "up" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    family = machine.family_of(process.pid)
    assert len(family) == 2
    fleet.close()
    assert not any(psutil.pid_exists(each.pid) and each.status() != psutil.STATUS_ZOMBIE for each in family)


class Streamer(http.server.BaseHTTPRequestHandler):
    """Answers a POST with numbered events; the order is the class's to choose."""

    protocol_version = "HTTP/1.1"
    order: tuple[int, ...] = tuple(range(1, 11))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        template = payloads.slow_event_template()
        for number in self.order:
            event = (template % (number, time.monotonic_ns() // 1000)).encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def streamer() -> Iterator[type[Streamer]]:
    class Handler(Streamer):
        port = 0

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("order", "complete", "reordered", "lost"),
    [
        (tuple(range(1, 11)), 5, 0, 0),
        ((1, 3, 2, 4, 5, 6, 7, 8, 9, 10), 5, 10, 0),
        ((1, 2, 3), 0, 0, 35),
    ],
)
def test_streams_notice_what_is_lost_or_out_of_order(
    streamer: type[Streamer], order: tuple[int, ...], complete: int, reordered: int, lost: int
) -> None:
    streamer.order = order
    tally, peak = streams.flood(Subject(DIRECT, streamer.port), 5, 1)  # type: ignore[attr-defined]
    row = streams.row_of(tally, peak, 5, 1)
    assert (row["complete"], row["reordered"], row["lost_events"]) == (complete, reordered, lost)


def test_connection_times_one_answer_after_another(streamer: type[Streamer]) -> None:
    with Connection(streamer.port) as connection:  # type: ignore[attr-defined]
        for _ in range(2):
            timing = connection.exchange(request_bytes("/x", b"{}"))
            assert timing.status == 200
            assert 0 < timing.first_byte_us <= timing.last_byte_us
            assert len(latency.STAMP.findall(connection.reader.body)) == 10


class Cached(http.server.BaseHTTPRequestHandler):
    """Answers every POST with what it was sent, and calls the second of a body a hit."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen = body in self.bodies
        self.bodies.append(body)
        self.send_response(200)
        self.send_header("Cache-Status", "gemini-proxy; hit; ttl=60" if seen else "gemini-proxy; fwd=miss; stored")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def cached_server() -> Iterator[tuple[Subject, list[bytes]]]:
    bodies: list[bytes] = []
    handler = type("Handler", (Cached,), {"bodies": bodies})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Subject(PROXY, server.server_port), bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hit_is_told_from_a_miss(cached_server: tuple[Subject, list[bytes]]) -> None:
    subject, _ = cached_server
    reader = HeadReader()
    with Connection(subject.port, reader) as connection:
        told = []
        for body in (b"{1}", b"{1}", b"{2}"):
            connection.exchange(request_bytes("/x", body))
            told.append((reader.is_hit, bytes(reader.body)))
    assert told == [(False, b"{1}"), (True, b"{1}"), (False, b"{2}")]


def test_a_miss_among_hits_is_an_error(cached_server: tuple[Subject, list[bytes]]) -> None:
    subject, _ = cached_server
    body = payloads.numbered_body()
    with pytest.raises(ValueError, match="not served"):
        cached.closed_loop([subject], body, 5)
    cached.prime(subject, body)
    assert len(cached.closed_loop([subject], body, 5)[PROXY]) == 5


def test_rounds_whose_calls_are_not_what_they_should_be_are_no_result() -> None:
    cached.check_hits(0)
    with pytest.raises(ValueError, match="3 requests went upstream"):
        cached.check_hits(3)
    cached.check_misses(199, sample("misses", 1, 100), 2)
    with pytest.raises(ValueError, match="150 upstream calls"):
        cached.check_misses(150, sample("misses", 1, 100), 2)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_load_repeats_known_numbers_and_never_a_new_one(
    lab: Laboratory, cached_server: tuple[Subject, list[bytes]], tmp_path: Path
) -> None:
    subject, bodies = cached_server
    template = payloads.numbered_body()
    known = load.write_numbered_script(cached.folder_in(tmp_path, "known"), template, numbers=5)
    new = load.write_numbered_script(cached.folder_in(tmp_path, "new"), template)

    def sent(script: Path) -> list[bytes]:
        bodies.clear()
        url = f"http://127.0.0.1:{subject.port}/x"
        assert load.run_wrk(lab.fleet, lab.cores, url, script, connections=2, seconds=1).errors == 0
        return list(bodies)

    assert set(sent(known)) == {payloads.with_number(template, number) for number in range(5)}
    fresh = [*sent(new), *sent(new)]
    assert len(set(fresh)) == len(fresh)
    assert {len(each) for each in fresh} == {payloads.SMALL_BYTES}


def test_every_call_that_comes_through_is_counted() -> None:
    with collapse.HoldingServer() as upstream:
        said = collapse.flood(Subject(DIRECT, upstream.server.server_port), upstream, 20)
        assert (upstream.calls, sum(said.values())) == (20, 20)


def test_turns_count_only_as_hits_with_the_bytes_of_the_first_time(
    cached_server: tuple[Subject, list[bytes]],
) -> None:
    subject, _ = cached_server
    bodies = [b'{"turn": %d}' % number for number in range(3)]
    assert [is_hit for _, is_hit, _ in replay.play(subject, bodies)] == [False] * 3
    again = replay.play(subject, bodies)
    assert [is_hit for _, is_hit, _ in again] == [True] * 3
    assert replay.good_turns(again, bodies) == 3
    assert replay.good_turns(again, [bodies[0], b"other bytes", bodies[2]]) == 2
    assert replay.good_turns([(bodies[0], False, 1.0)], bodies[:1]) == 0


def test_a_smaller_store_gives_no_verdict_on_a_million() -> None:
    run = Run(parse_options(["--rows", "5000"]), report.console())
    assert if_full(run, {"list_ms": 3.0}) == {}
    run = Run(parse_options([]), report.console())
    assert if_full(run, {"list_ms": 3.0}) == {"list_ms": 3.0}


UPSTREAMS = (
    pytest.param(
        "nginx", marks=pytest.mark.skipif(bool(nginx_config.why_absent()), reason=nginx_config.why_absent() or "-")
    ),
    "simulator",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Laboratory]:
    fleet = machine.Fleet()
    cores = machine.split_cores(os.sched_getaffinity(0))
    yield Laboratory(tmp_path, cores, fleet, tmp_path / "no-program")
    fleet.close()


@pytest.mark.parametrize("kind", UPSTREAMS)
def test_upstream_answers_in_the_sizes_of_the_workloads_and_stamps_its_events(
    lab: Laboratory, kind: Literal["nginx", "simulator"]
) -> None:
    lab.upstream = kind
    assert lab.start_upstream() == kind
    with Connection(lab.upstream_port) as connection:
        connection.exchange(request_bytes(throughput.AGENT.target, payloads.request_body(payloads.AGENT_BYTES)))
        answer = bytes(connection.reader.body)
        assert payloads.without_ids(answer) == payloads.without_ids(payloads.unary_answer())
        assert payloads.ID_PLACE.encode() not in answer
        connection.exchange(request_bytes(throughput.SSE.target, b"{}"))
        assert bytes(connection.reader.body) == b"".join(payloads.stream_events())
        pace = {"X-Bench-Events": str(latency.STREAM_EVENTS), "X-Bench-Interval-Ms": "1"}
        delays = latency.stream_delays(connection, request_bytes(payloads.SLOW_PATH, b"{}", pace))
        assert len(delays) == latency.STREAM_EVENTS
        assert all(0 <= each < 5_000_000 for each in delays)


@pytest.mark.skipif(bool(nginx_config.why_absent()), reason=nginx_config.why_absent() or "-")
def test_nginx_stands_between_and_passes_the_same_bytes(lab: Laboratory) -> None:
    lab.start_upstream()
    body = payloads.request_body(payloads.AGENT_BYTES)
    with lab.subject(NGINX) as subject:
        for target in (throughput.AGENT.target, throughput.SSE.target):
            expected = throughput.body_of(lab.upstream_port, target, body)
            throughput.check_bytes(subject, target, body, expected)
            with pytest.raises(ValueError, match="not the upstream's"):
                throughput.check_bytes(subject, target, body, expected + b"x")


def test_worst_question_of_a_kind_counts_its_first_asking() -> None:
    printed = """filled 1,000,000 in 400 s of add: 2,500 exchanges/s
list nothing                                 first     50.1 ms  then      3.0 ms  50
list model                                   first      4.0 ms  then     60.5 ms  50
search 'two words'                           first    501.0 ms  then      9.0 ms  7  OVER 500
"""
    questions, filled = million.read(printed)
    assert filled == 2500
    assert [million.worst_of(questions, kind) for kind in ("list", "search", "stats")] == [60.5, 501.0, None]


def test_a_program_that_is_not_there_is_absent_with_its_name(lab: Laboratory) -> None:
    with pytest.raises(AbsentError, match="no-program"), lab.subject(PROXY):
        pass
