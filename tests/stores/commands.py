"""What clients of MongoDB in this process send, for tests to watch or to interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymongo import monitoring


class Commands(monitoring.CommandListener):
    """Calls `armed`, if it is set, with a command that is about to be sent: `find gemini_cache`."""

    armed: Callable[[str], object] | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.armed is not None:
            self.armed(f"{event.command_name} {event.command.get(event.command_name)}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...
    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


COMMANDS = Commands()
monitoring.register(COMMANDS)  # clients that are made from now on tell it


@contextmanager
def watched() -> Iterator[list[str]]:
    """The commands that are sent meanwhile."""
    sent: list[str] = []
    COMMANDS.armed = sent.append
    try:
        yield sent
    finally:
        COMMANDS.armed = None
