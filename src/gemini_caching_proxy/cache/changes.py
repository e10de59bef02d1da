"""A sign in the data folder that entries were changed by another process, so that workers drop their hot answers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from gemini_caching_proxy.settings import Settings

CHANGED_FILE: Final = "cache.changed"


def cache_changed(settings: Settings) -> None:
    """Say that entries were evicted, pinned or added behind the workers' backs.

    Raises OSError if the folder is there and cannot be written; without a folder there is nobody to tell.
    """
    if not settings.data_dir.is_dir():
        return
    path = settings.data_dir / CHANGED_FILE
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # The kernel's own clock for files ticks too slowly to tell two changes apart.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def last_change_ns(data_dir: Path) -> int:
    """When the last sign was given (its modification time); 0 for never."""
    try:
        return os.stat(data_dir / CHANGED_FILE).st_mtime_ns
    except OSError:
        return 0
