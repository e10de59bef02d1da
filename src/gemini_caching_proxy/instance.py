"""What tells one proxy from another on the same store, and what all of them must have in common."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from .errors import StoreError
from .log import get_logger
from .redaction.fingerprints import keep_shared_key, load_fingerprint_key, shared_key_path
from .settings import Settings
from .storage import is_shared, shared_store

INSTANCE_FILE = "instance"
log = get_logger(__name__)


def instance_name(data_dir: Path) -> str:
    """A lasting name for the proxy of this data folder: 16 hex digits, made on first use."""
    path = data_dir / INSTANCE_FILE
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):
            name = path.read_text().strip()
            int(name, 16)
            if len(name) == 16:
                return name
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(secrets.token_hex(8))
    return path.read_text().strip()


async def agree_on_fingerprints(settings: Settings) -> None:
    """Have the same fingerprints of credentials as the other proxies on a shared store.

    Only then are answers that one recorded served by all. The first proxy's key becomes the shared one, and stays in
    the data folder. With the store away this proxy works with its own key until its next start.
    """
    if not is_shared(settings) or shared_key_path(settings.data_dir, settings.store).exists():
        return
    store = shared_store(settings)
    try:
        await store.open()
        key = await store.agree("fingerprint_key", load_fingerprint_key(settings.data_dir))
        keep_shared_key(settings.data_dir, settings.store, key)
    except StoreError:
        # What is wrong with the store the recorder says.
        log.info("until the store has been reached, credentials get fingerprints that are this proxy's alone")
    finally:
        await store.aclose()
