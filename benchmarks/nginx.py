"""nginx in two parts: the upstream that plays Gemini, and the reverse proxy that is the yardstick.

Both run in the foreground with a prefix, pid and configuration of their own. The yardstick is meant to be hard to beat:
one worker, kept-alive upstream connections, no access log, request bodies buffered in memory (measured faster than
passing them through piecemeal), answers of streams unbuffered.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from . import payloads

MODULE_DIRS = (Path("/usr/lib/nginx/modules"), Path("/usr/share/nginx/modules"), Path("/usr/lib64/nginx/modules"))
LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")


def why_absent() -> str:
    """Why nginx cannot serve here, or an empty string."""
    if shutil.which("nginx") is None:
        return "nginx is not installed (Debian: nginx)"
    if module_dir() is None:
        return "nginx has no Lua module (Debian: libnginx-mod-http-lua)"
    return ""


def module_dir() -> Path | None:
    return next((each for each in MODULE_DIRS if all((each / name).exists() for name in LUA_MODULES)), None)


def command(config: Path) -> list[str]:
    return ["nginx", "-p", str(config.parent), "-c", str(config), "-e", "stderr"]


def write_upstream(folder: Path, port: int) -> Path:
    """Configuration of the upstream; the bodies it serves are files beside it.

    It reads the whole request before it answers. The slow stream takes its pace from `X-Bench-Events` and
    `X-Bench-Interval-Ms` and stamps each event with its number and CLOCK_MONOTONIC.
    """
    (folder / "answer.json").write_bytes(payloads.unary_answer())
    (folder / "slow-event.txt").write_text(payloads.slow_event_template())
    for number, event in enumerate(payloads.stream_events(), start=1):
        (folder / f"event-{number}.txt").write_bytes(event)
    modules = module_dir()
    loads = "\n".join(f"load_module {modules}/{name};" for name in LUA_MODULES)
    setup = _INIT_LUA.replace("FOLDER", str(folder)).replace("EVENTS", str(payloads.EVENTS_PER_STREAM))
    json_type, stream_type = '"application/json; charset=UTF-8"', "text/event-stream"
    server = f"""
    init_by_lua_block {{ {setup} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = {payloads.UNARY_PATH} {{ default_type {json_type}; content_by_lua_block {{ {_UNARY_LUA} }} }}
        location = {payloads.STREAM_PATH} {{ default_type {stream_type}; content_by_lua_block {{ {_STREAM_LUA} }} }}
        location = {payloads.SLOW_PATH} {{ default_type {stream_type}; content_by_lua_block {{ {_SLOW_LUA} }} }}
    }}"""
    return _write(folder, "upstream", loads, server)


def write_proxy(folder: Path, port: int, upstream_port: int) -> Path:
    """Configuration of the reverse proxy on `port`."""
    passing = """proxy_pass http://upstream_pool; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_read_timeout 600s;"""
    server = f"""
    upstream upstream_pool {{ server 127.0.0.1:{upstream_port}; keepalive 2048; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ {passing} }}
        location ~ :streamGenerateContent$ {{ {passing} proxy_buffering off; }}
    }}"""
    return _write(folder, "proxy", "", server)


def _write(folder: Path, name: str, loads: str, server: str) -> Path:
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    temps = "\n".join(
        f"    {kind}_temp_path {folder}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / f"{name}.conf"
    config.write_text(f"""{loads}
{user}
daemon off;
worker_processes 1;
pid {folder}/{name}.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
{temps}{server}
}}
""")
    return config


_INIT_LUA = """
        local function content(name)
            local file = assert(io.open("FOLDER/" .. name, "rb"))
            local text = file:read("*a")
            file:close()
            return text
        end
        local answer = content("answer.json")
        local from, to = answer:find(("#"):rep(12), 1, true)
        answer_start, answer_rest, answer_size, answer_count = answer:sub(1, from - 1), answer:sub(to + 1), #answer, 0
        slow_event = content("slow-event.txt")
        stream_events = {}
        for number = 1, EVENTS do stream_events[number] = content("event-" .. number .. ".txt") end
        local ffi = require("ffi")
        ffi.cdef("typedef struct { long sec; long nsec; } bench_time; int clock_gettime(int clock, bench_time *now);")
        local now = ffi.new("bench_time")
        function monotonic_us()
            ffi.C.clock_gettime(1, now)
            return tonumber(now.sec) * 1e6 + math.floor(tonumber(now.nsec) / 1e3)
        end
    """

_UNARY_LUA = """
            ngx.req.read_body()
            answer_count = answer_count + 1
            ngx.header.content_length = answer_size
            ngx.print(answer_start, string.format("%012d", answer_count), answer_rest)
        """

_STREAM_LUA = """
            ngx.req.read_body()
            for number = 1, #stream_events do ngx.print(stream_events[number]) ngx.flush(true) end
        """

_SLOW_LUA = """
            ngx.req.read_body()
            local asked = ngx.req.get_headers()
            local events, pause = tonumber(asked["X-Bench-Events"]), tonumber(asked["X-Bench-Interval-Ms"]) / 1000
            for number = 1, events do
                ngx.sleep(pause)
                ngx.print(string.format(slow_event, number, string.format("%.0f", monotonic_us())))
                ngx.flush(true)
            end
        """
