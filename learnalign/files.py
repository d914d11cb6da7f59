"""The one place that writes files, so that a reader never meets half of one.

A file `X` is written as `X.partial` in the same directory, flushed to the disk, renamed to `X`, and the
rename itself flushed: after a crash at any instant there is the old file or the new one, and at most a
leftover `.partial` that `remove_partials` clears away. Bytes depend on the content alone, so a run that was
resumed can be compared with one that was not. This module does not lock (see `rundir`), does not create
directories, and does not write sketches (see `store`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign.errors import RunError

PARTIAL = ".partial"
ROW_GROUP = 65536
"""Rows of one Parquet row group: also what `write_parquet` holds in memory beside the table."""

ADVICE = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some of the quota and give the same command again",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or use another file system",
    errno.EACCES: "make the directory writable or choose another",
    errno.EPERM: "make the directory writable or choose another",
    errno.EROFS: "choose a directory on a writable file system",
    errno.ENOENT: "create the directory first",
    errno.ENOTDIR: "create the directory first",
    errno.EISDIR: "remove the directory of that name or choose another path",
}


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all. Raises `RunError`."""
    with _replacing(Path(path)) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all. Raises `RunError`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as indented JSON, keys sorted. Raises `RunError`, and `ValueError` for NaN or infinity."""
    write_text(path, json.dumps(obj, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_parquet(path: str | Path, table: pa.Table) -> None:
    """Write `table` as zstd Parquet, schema and metadata included. Raises `RunError`.

    Equal tables give equal bytes, however their columns are cut into chunks: Arrow cuts pages at chunk
    borders, so every row group of `ROW_GROUP` rows is made one chunk first. What is read back has the very
    schema that was written: Arrow would otherwise rename the fields inside lists.
    """
    options = {"compression": "zstd", "use_compliant_nested_type": False}
    with _replacing(Path(path)) as file, pq.ParquetWriter(file, table.schema, **options) as writer:
        for start in range(0, table.num_rows, ROW_GROUP):
            group = table.slice(start, ROW_GROUP).combine_chunks()
            writer.write_table(group, row_group_size=ROW_GROUP)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits. Raises `RunError`."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {_reason(error)}") from error


def publish(partial: Path, path: Path) -> None:
    """Rename a folder whose files are on the disk to its final name, and flush the rename. Raises `RunError`."""
    try:
        os.replace(partial, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {_reason(error)}{_advice(error)}") from error


def remove_partials(directory: str | Path) -> int:
    """Delete what an interrupted write left directly in `directory`; returns how many. Raises `RunError`.

    Only for the holder of the run's lock: another process could be writing.
    """
    leftovers = [path for path in sorted(Path(directory).glob("*" + PARTIAL)) if path.is_file()]
    for path in leftovers:
        try:
            path.unlink()
        except OSError as error:
            raise RunError(f"cannot delete {path}: {_reason(error)}{_advice(error)}") from error
    return len(leftovers)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it does not."""
    partial = path.with_name(path.name + PARTIAL)
    replaced = False
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        replaced = True
        _sync_directory(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {_reason(error)}{_advice(error)}") from error
    finally:
        if not replaced:
            with suppress(OSError):  # the first error is the one to report
                partial.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot flush a directory; there the rename has to do.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def _advice(error: OSError) -> str:
    advice = ADVICE.get(error.errno or 0)
    return f"; {advice}" if advice else ""
