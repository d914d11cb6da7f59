"""One writer a shard: an exclusive lock on the shard's index, held as long as its descriptor or a duplicate is open.

This module does not read or write the index.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from learnalign.errors import StoreError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system without locks answers: some network and FUSE ones."""


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
            raise not_locked(index_path, error) from error
        if _is_current(descriptor, index_path):
            return descriptor
        os.close(descriptor)  # its holder put a new index in the place of this one: try that


def not_locked(path: Path, error: OSError) -> StoreError:
    """What to tell whoever was refused the lock of a file of a store."""
    if isinstance(error, BlockingIOError):
        return StoreError(
            f"another process is writing to {path.parent} ({path.name} is locked): wait for it, "
            "stop it, or take another shard"
        )
    if error.errno in NO_LOCKS:
        return StoreError(
            f"the file system of {path.parent} has no locks ({error.strerror}), which keep two writers apart: write to "
            "a local disk and copy the closed store, or mount it with locks (NFS: a lock daemon, or local_lock=flock)"
        )
    return StoreError(f"cannot lock {path}: {error.strerror}")


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
