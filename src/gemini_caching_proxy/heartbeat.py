"""The recorder's status file, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from time import time_ns

from .feed import Feed
from .log import get_logger
from .persistence import Persistence
from .recording_status import STOPPED, RecorderStatus, backlog, write_status
from .settings import Settings

BEAT_SECONDS = 1.0
LEAST_PAUSE_SECONDS = 0.1
log = get_logger(__name__)


class Heartbeat:
    """Writes the status about once a second, and soon after a change."""

    def __init__(self, settings: Settings, persistence: Persistence, feeds: Mapping[str, Feed]) -> None:
        self._settings = settings
        self._persistence = persistence
        self._feeds = feeds
        self._changed = asyncio.Event()
        self._failing = False
        self._damaged_before = self._orphans_before = 0
        persistence.on_change = self.changed

    def __repr__(self) -> str:
        return f"<Heartbeat of {self._settings.data_dir}>"

    def changed(self) -> None:
        self._changed.set()

    def journal_done(self, feed: Feed) -> None:
        """Keep the counts of a journal that is gone."""
        self._damaged_before += feed.damaged_frames
        self._orphans_before += feed.orphan_records
        self.changed()

    async def keep_beating(self) -> None:
        while True:
            self._changed.clear()
            self.write()
            await asyncio.sleep(LEAST_PAUSE_SECONDS)
            # Not `wait_for`: in Python 3.11 it can swallow a cancellation that meets the change; this would never end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS - LEAST_PAUSE_SECONDS):
                    await self._changed.wait()

    def write(self, *, stopped: bool = False) -> None:
        try:
            write_status(self._settings.data_dir, self._status(STOPPED if stopped else self._persistence.state))
        except OSError as error:
            if not self._failing:
                log.warning("the recorder's status cannot be written", why=str(error))
            self._failing = True
        else:
            self._failing = False

    def _status(self, state: str) -> RecorderStatus:
        counts, feeds = self._persistence.counts, list(self._feeds.values())
        taken = {feed.name: (feed.taken_to.segment, feed.taken_to.offset) for feed in feeds}
        begins = [begin for feed in feeds if (begin := feed.oldest_begin_ns) is not None]
        return RecorderStatus(
            pid=os.getpid(),
            heartbeat_ns=time_ns(),
            state=state,
            stored=counts.stored,
            duplicates=counts.duplicates,
            undecoded=counts.undecoded,
            rejected=counts.rejected,
            damaged_frames=self._damaged_before + sum(feed.damaged_frames for feed in feeds),
            orphan_records=self._orphans_before + sum(feed.orphan_records for feed in feeds),
            gaps=counts.gaps,
            gap_exchanges=counts.gap_exchanges,
            open_exchanges=sum(feed.open_count for feed in feeds),
            backlog_bytes=backlog(self._settings.journal_dir, taken),
            oldest_unstored_ns=min(begins, default=None),
            taken=taken,
        )
