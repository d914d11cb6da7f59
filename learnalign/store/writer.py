"""The writing side of a store: a background thread makes blocks of rows durable, each whole or not at all.

The native core encodes, checksums and writes (csrc/FORMAT.md says in which order); this module checks what
comes in, takes the lock and keeps prompt ids unique. It does not repair a damaged store.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.durable import write_text
from learnalign.errors import ArrayError, RunError, StoreCorruptError, StoreError
from learnalign.store.description import (
    NAME,
    Identity,
    StoreDescription,
    checked_description,
    read_description,
)

QUEUE_BYTES = 64 << 20
"""Encoded rows that may wait for the disk before `append` does."""
LARGEST_ID = 65536
"""Bytes of a prompt id in UTF-8."""
INDEX_NAME = "shard-00000.index"


class SketchWriter:
    """Appends unit rows to a store, new or resumed. A context manager; any thread may append.

    Leaving the `with` block by an exception commits what was appended and leaves the store unfinished, to be
    resumed; leaving it normally closes the store.

    Args:
        directory: the store; made where it does not exist.
        dimension: d, numbers a row.
        dtype: `float16`, `int8` (with a scale a row) or `float32`.
        identity: what the rows are made with (seed, policy digest, version of the sketch, ...).

    Raises:
        StoreMismatchError: the directory holds a store made with something else; names each difference.
        StoreCorruptError: its files are damaged in a way that no crash explains.
        StoreError: another writer is at work, a foreign directory, or the disk refuses.
    """

    done: set[str]
    """Prompt ids that were committed when the store was opened: no need to append these."""

    def __init__(
        self,
        directory: str | Path,
        *,
        dimension: int,
        dtype: str = "float16",
        identity: Identity,
    ) -> None:
        self.directory = Path(directory)
        self.dimension = dimension
        self._appended: set[str] = set()
        asked = checked_description(dimension, dtype, identity)
        _make_directory(self.directory)
        lock = _lock(self.directory / INDEX_NAME)
        try:
            _settle_description(self.directory, asked, index_bytes=os.fstat(lock).st_size)
            self._core = _core.StoreWriter(str(self.directory), lock, 0, dimension, dtype, QUEUE_BYTES)
        finally:
            os.close(lock)  # the native writer holds a duplicate, and with it the lock
        recovered = self._core.take_recovered_ids()
        self.done = set(recovered)
        if len(self.done) != len(recovered):
            self._core.stop()
            raise StoreCorruptError(f"{self.directory} lists a prompt id twice: delete it to sketch again")

    def append(
        self,
        prompt_ids: Sequence[str],
        success_rate: npt.NDArray[np.float64],
        phi: npt.NDArray[np.float32],
    ) -> None:
        """Queue n rows as one atomic block; waits while the queue is full. The arrays may be reused at once.

        Args:
            prompt_ids: n ids, not empty, none of them in the store yet.
            success_rate: [n] float64 in [0, 1].
            phi: [n, d] float32, C-contiguous. Rows are stored divided by their length, which is kept. A zero
                row is stored as zeros with norm 0, a row that is not finite as zeros with norm NaN.

        Raises:
            ArrayError: wrong shapes, dtypes or rates.
            StoreError: a repeated or unusable prompt id, or the background thread could not write an earlier
                block (disk full, ...); committed rows are safe then.
        """
        ids = list(prompt_ids)
        rates = np.asarray(success_rate)
        if rates.shape != (len(ids),) or rates.dtype != np.float64:
            raise ArrayError(f"success_rate must be float64 [{len(ids)}], found {rates.dtype} {list(rates.shape)}")
        if not np.all((rates >= 0.0) & (rates <= 1.0)):
            raise ArrayError("success_rate must lie in [0, 1]")
        expected = (len(ids), self.dimension)
        if not isinstance(phi, np.ndarray) or phi.shape != expected or phi.dtype != np.float32:
            found = f"{phi.dtype} {list(phi.shape)}" if isinstance(phi, np.ndarray) else type(phi).__name__
            raise ArrayError(f"phi must be a float32 array {list(expected)}, found {found}")
        if not phi.flags.c_contiguous:
            raise ArrayError("phi must be C-contiguous: pass numpy.ascontiguousarray(phi)")
        self._check_ids(ids)
        self._core.append(ids, np.ascontiguousarray(rates), phi)
        self._appended.update(ids)

    def flush(self) -> None:
        """Return when every appended block is durable. Raises `StoreError`."""
        self._core.flush()

    def close(self) -> None:
        """Flush, then give the files their final form and name. Raises `StoreError`."""
        self._core.close()

    def __enter__(self) -> SketchWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._core.stop()

    def _check_ids(self, ids: list[str]) -> None:
        seen: set[str] = set()
        for prompt_id in ids:
            if not isinstance(prompt_id, str):
                raise StoreError(f"a prompt id must be a string, found {prompt_id!r}")
            try:
                size = len(prompt_id.encode())
            except UnicodeEncodeError as error:
                raise StoreError(f"prompt id {prompt_id!r} cannot be written as UTF-8") from error
            if not 1 <= size <= LARGEST_ID:
                raise StoreError(f"a prompt id must have 1 to {LARGEST_ID} bytes, found {size}")
            if prompt_id in seen or prompt_id in self.done or prompt_id in self._appended:
                raise StoreError(f"prompt id {prompt_id!r} is in {self.directory} already: it must be unique")
            seen.add(prompt_id)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / NAME).exists():
            return
        ours = {"store.json.partial", INDEX_NAME}
        foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in ours)
    except OSError as error:
        raise StoreError(f"cannot make the store {directory}: {error.strerror}") from error
    if foreign:
        raise StoreError(
            f"{directory} is not a sketch store (no store.json) and holds other files ({foreign[0]}, ...): "
            "choose an empty or a new directory"
        )


def _lock(index_path: Path) -> int:
    try:
        descriptor = os.open(index_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(f"cannot open {index_path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"another process is writing to {index_path.parent} (its index is locked): wait for it or stop it"
        ) from error
    return descriptor


def _settle_description(directory: Path, asked: StoreDescription, *, index_bytes: int) -> None:
    """Compare with the stored description, or write it where the store is new. The caller holds the lock."""
    if (directory / NAME).exists():
        read_description(directory).refuse_other(asked, directory)
    elif index_bytes > 0:
        raise StoreCorruptError(f"{directory} has rows but no store.json: restore it, or delete the store")
    else:
        try:
            write_text(directory / NAME, asked.text())
        except RunError as error:
            raise StoreError(str(error)) from error
