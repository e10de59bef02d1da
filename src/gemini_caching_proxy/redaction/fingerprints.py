"""The key of fingerprints, and fingerprints."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from blake3 import blake3

from gemini_caching_proxy.errors import ConfigError

KEY_BYTES: Final = 32
FINGERPRINT: Final = re.compile(rb"fp_[0-9a-f]{16}")


def load_fingerprint_key(data_dir: Path, shared_by: str | None = None) -> bytes:
    """The data folder's key; made on first use, and the same for every process that uses the folder.

    `shared_by`: the store by which proxies share a key; theirs is taken once it is known (see `keep_shared_key`).
    Raises ConfigError if the file holds something else, OSError if it cannot be read or made.
    """
    path = data_dir / "fingerprint.key"
    if shared_by is not None and (shared := shared_key_path(data_dir, shared_by)).exists():
        path = shared
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_key(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path} is damaged, it must hold {KEY_BYTES} bytes: "
            "restore it, or delete it to start with new fingerprints."
        )
    return key


def shared_key_path(data_dir: Path, store: str) -> Path:
    """Where the key that proxies share by a store (its name) is kept."""
    word = blake3(store.rpartition("@")[2].partition("?")[0].encode()).hexdigest(length=8)
    return data_dir / f"fingerprint-{word}.key"


def keep_shared_key(data_dir: Path, store: str, key: bytes) -> None:
    """Keep the key that proxies share by a store. Raises OSError."""
    _make_key(shared_key_path(data_dir, store), key)


def _make_key(path: Path, key: bytes) -> None:
    """Put a whole file in place at once; whoever comes second keeps the first one's."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, key)
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


class Fingerprints:
    """secret -> fingerprint under one key, remembered for the secrets met lately."""

    def __init__(self, key: bytes, *, most: int = 4096) -> None:
        self._key = key
        self._most = most
        self._known: dict[bytes, bytes] = {}

    def of(self, secret: bytes) -> bytes:
        """What stands for a secret; a fingerprint stands for itself."""
        known = self._known.get(secret)
        if known is None:
            if FINGERPRINT.fullmatch(secret):
                return secret
            known = b"fp_" + blake3(secret, key=self._key).digest(length=8).hex().encode()
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[secret] = known
        return known
