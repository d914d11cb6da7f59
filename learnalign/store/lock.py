"""One writer a shard: an exclusive lock on the shard's index, held as long as its descriptor or a duplicate is open.

This module does not read or write the index.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from learnalign.errors import StoreError


def lock_shard(index_path: Path) -> int:
    """A descriptor of the locked index, made where it does not exist. Raises `StoreError` when it is taken."""
    while True:
        try:
            descriptor = os.open(index_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(f"cannot open {index_path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"another process is writing to {index_path.parent} ({index_path.name} is locked): wait for it, "
                "stop it, or take another shard"
            ) from error
        if _is_current(descriptor, index_path):
            return descriptor
        os.close(descriptor)  # its holder put a new index in the place of this one: try that


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
