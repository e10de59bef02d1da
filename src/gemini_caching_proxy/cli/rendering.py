"""One exchange for people: its facts, the conversation turn, the headers.

Everything recorded passes `styled` or `one_line`, so nothing in it can steer the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gemini_caching_proxy.exchange import Body, CacheUse, Exchange, Headers, Usage
from gemini_caching_proxy.providers.base import Block, Rendering, Turn

from .figures import bytes_text, cost_text, count_text, duration_text, local_time
from .terminal import one_line, styled, visible

BLOCK_CHARACTERS = 4000
"""Of a longer block only this much is shown unless all is asked for."""
RAW_CHARACTERS = 2000

ROLE_STYLES = {"system": "bold magenta", "user": "bold cyan", "model": "bold green", "tool": "bold yellow"}
_MARKS = {"tool_call": "→ ", "tool_result": "← ", "media": "▣ ", "code": "» ", "thought": "", "text": "", "other": "· "}


def facts(exchange: Exchange) -> Group:
    """What happened, in a few lines."""
    moment = local_time(exchange.started_ns)
    head = Text(str(exchange.id), "bold cyan")
    head.append(f"  {moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} {moment:%z}", "dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in _facts(exchange):
        if text.plain:
            grid.add_row(name, text)
    return Group(head, grid)


def _facts(exchange: Exchange) -> Iterable[tuple[str, Text]]:
    yield "asked", _fact(f"{exchange.method} {exchange.target}")
    yield "answered", _answered(exchange)
    failure = exchange.failure
    if failure is not None:
        yield "failed", _fact(f"{failure.kind.value.replace('_', ' ')}: {failure.detail}", "red")
    yield "model", _fact(_model(exchange))
    yield "client", _fact(f"{exchange.user_agent or 'unnamed'} at {exchange.client_address}{_credential(exchange)}")
    yield "thread", _fact(_thread(exchange))
    yield "time", _fact(_times(exchange))
    yield "tokens", _fact(_tokens(exchange.usage, exchange))
    if exchange.tunnel_bytes_up is not None or exchange.tunnel_bytes_down is not None:
        up, down = bytes_text(exchange.tunnel_bytes_up), bytes_text(exchange.tunnel_bytes_down)
        yield "tunnel", _fact(f"{up} up, {down} down; messages are not decoded")
    yield "cache", _fact(_cache_use(exchange.cache))
    yield "unread", _fact(exchange.decode_error or "", "yellow")


def _fact(text: str, style: str = "") -> Text:
    return Text(one_line(text, 2000), style)


def _answered(exchange: Exchange) -> Text:
    response = exchange.response
    if response is None:
        served = exchange.status
        return Text(f"{served} by the proxy" if served else "nothing", "red")
    style = "green" if response.status < 400 else "red"
    chunks = len(response.chunks)
    rest = f"{bytes_text(response.body.size)} in {chunks} chunk{'' if chunks == 1 else 's'}, {exchange.stream_shape}"
    finish = f", {exchange.finish_reason}" if exchange.finish_reason else ""
    line = _fact(f"{response.status} {response.reason.decode('latin-1')}", style)
    return line.append("  ").append(one_line(rest + finish), "dim")


def _model(exchange: Exchange) -> str:
    asked, answered = exchange.model, exchange.model_version
    if asked and answered and answered != asked:
        return f"{asked} (answered: {answered}), {exchange.operation}"
    return ", ".join(filter(None, (asked or answered, exchange.operation)))


def _credential(exchange: Exchange) -> str:
    return f", {exchange.credential_source}'s key {exchange.credential}" if exchange.credential else ""


def _thread(exchange: Exchange) -> str:
    if exchange.conversation is None:
        return ""
    return f"conversation {exchange.conversation}" + (f", continues {exchange.parent}" if exchange.parent else "")


def _times(exchange: Exchange) -> str:
    timing = exchange.timing
    named = (
        ("in all", timing.last_byte_us),
        ("request read", timing.request_done_us),
        ("connected", timing.connected_us),
        ("first byte", timing.first_byte_us),
        ("first content", timing.first_content_us),
    )
    return ", ".join(f"{duration_text(value)} {name}" for name, value in named if value is not None)


def _cache_use(use: CacheUse | None) -> str:
    if use is None:
        return ""
    if not use.served:
        return ", ".join(filter(None, (use.verdict.value, use.detail)))
    saved = f", saved {cost_text(use.saved_nanousd)}" if use.saved_nanousd is not None else ""
    waiting = f", {duration_text(use.saved_us)} of waiting" if use.saved_us is not None else ""
    return f"{use.verdict.value}: the answer of exchange {use.source}{saved}{waiting}"


def _tokens(usage: Usage | None, exchange: Exchange) -> str:
    if usage is None:
        return ""
    cached = f" ({count_text(usage.cached_tokens)} cached)" if usage.cached_tokens else ""
    thoughts = f" + {count_text(usage.thoughts_tokens)} thoughts" if usage.thoughts_tokens else ""
    tools = f" + {count_text(usage.tool_use_tokens)} tool use" if usage.tool_use_tokens else ""
    price = exchange.price
    cost = cost_text(price.total_nanousd) if price else "unpriced"
    if price and price.total_nanousd:
        cost += f" (in {cost_text(price.input_nanousd)}, out {cost_text(price.output_nanousd)})"
    given = count_text(usage.input_tokens or 0)
    return f"{given} in{cached}{tools} → {count_text(usage.output_tokens or 0)} out{thoughts}, {cost}"


def conversation(rendering: Rendering, *, earlier: int, full: bool) -> Group:
    """The turns of the request from number `earlier` on, and the answer."""
    lines: list[Text | Padding] = []
    if rendering.parameters or rendering.tools:
        lines.append(Text())
    if rendering.parameters:
        lines.append(_setting("with", (f"{name}={value}" for name, value in rendering.parameters)))
    if rendering.tools:
        lines.append(_setting("tools", rendering.tools))
    if earlier:
        turns = f"{earlier} earlier turn{'' if earlier == 1 else 's'}"
        lines.append(Text(f"\n… {turns} as in the parent (--full shows all)", "dim"))
    for turn in (*rendering.request[earlier:], *rendering.response):
        lines += _turn(turn, full)
    return Group(*lines)


def _setting(name: str, values: Iterable[str]) -> Text:
    return Text(f"{name} ", "dim").append_text(_fact(", ".join(values)))


def _turn(turn: Turn, full: bool) -> Iterable[Text | Padding]:
    yield Text(f"\n{one_line(turn.role, 40)}", ROLE_STYLES.get(turn.role, "bold"))
    for block in turn.blocks:
        yield Padding(_block(block, full), (0, 0, 0, 2), expand=False)


def _block(block: Block, full: bool) -> Text:
    text = Text(_MARKS.get(block.kind, "· "), "bold yellow")
    if block.name and block.kind in ("tool_call", "tool_result"):
        text.append(one_line(block.name, 200) + " ", "bold")
    style = "dim italic" if block.kind == "thought" else "dim" if block.kind == "other" else ""
    shown = block.text if full else block.text[:BLOCK_CHARACTERS]
    text.append_text(styled(shown.strip("\n"), style))
    if len(shown) < len(block.text):
        text.append(f" … {len(block.text) - len(shown)} more characters (--full)", "dim")
    return text


def added_turns(rendering: Rendering, parent: Rendering | None) -> int:
    """How many turns at the request's beginning are the parent's own and its answer."""
    if parent is None:
        return 0
    count = _same_beginning(rendering.request, parent.request)
    if count < len(parent.request):
        return _whole_system(rendering.request, count)
    answer = _same_beginning(rendering.request[count:], parent.response)
    if answer == 0 and count < len(rendering.request) and rendering.request[count].role == "model":
        # Clients send an answer back with small changes (thoughts left out, blocks merged): its place tells what it is.
        answer = 1
    return min(count + answer, len(rendering.request))


def _same_beginning(turns: Sequence[Turn], others: Sequence[Turn]) -> int:
    count = 0
    for turn, other in zip(turns, others, strict=False):
        if turn != other:
            break
        count += 1
    return count


def _whole_system(turns: Sequence[Turn], count: int) -> int:
    """A system text alone in common is nothing worth leaving out."""
    return 0 if all(turn.role == "system" for turn in turns[:count]) else count


def raw(title: str, plain: bytes, body: Body, *, full: bool) -> Group:
    """A body that is no conversation turn."""
    text = plain.decode(errors="replace")
    shown = text if full else text[:RAW_CHARACTERS]
    lines = [Text(f"\n{title}", "bold")]
    if b"\x00" in plain[:1000]:
        lines.append(Text(f"  {bytes_text(body.size)} of binary data", "dim"))
    elif shown:
        lines.append(styled(shown.rstrip("\n")))
        if len(shown) < len(text):
            lines.append(Text(f"… {len(text) - len(shown)} more characters (--full)", "dim"))
    else:
        lines.append(Text("  empty", "dim"))
    return Group(*lines)


def body_notes(body: Body) -> str:
    """What the record of a body lacks; empty for a whole one."""
    if not body.complete and len(body.data) < body.size:
        return f"only the first {bytes_text(len(body.data))} of {bytes_text(body.size)} are kept"
    if not body.complete:
        return f"it broke off after {bytes_text(body.size)}"
    return "credentials inside were replaced by fingerprints" if body.redacted else ""


def headers(title: str, first_line: str, fields: Headers) -> Text:
    """A message's head."""
    text = Text(f"\n{title}\n", "bold").append(one_line(first_line, 4000) + "\n")
    for name, value in fields:
        text.append(one_line(name.decode("latin-1"), 200), "cyan").append(": ")
        text.append(visible(value.decode("latin-1")) + "\n")
    text.right_crop(1)
    return text
