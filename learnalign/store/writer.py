"""The writing side of a store: blocks of rows become durable in the background, each whole or not at all.

The native core encodes, checksums and writes (csrc/FORMAT.md says in which order); this module checks what
comes in, takes the lock and keeps prompt ids unique. It does not look for damage in old rows (see `repair`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError, StoreError
from learnalign.store.description import NAME, PARTIAL, Identity, checked_description, settle_description
from learnalign.store.lock import lock_shard
from learnalign.store.reader import SketchReader

QUEUE_BYTES = 64 << 20
"""Encoded rows that may wait for the disk before `append` does."""
LARGEST_ID = 65536
"""Bytes of a prompt id in UTF-8."""
SHARDS = 100_000
"""Shard numbers have five digits."""


class SketchWriter:
    """Appends unit rows to one shard of a store, new or resumed. A context manager; any thread may append.

    Several writers (ranks, processes) fill one store at the same time, each a shard of its own. Leaving the `with`
    block by an exception commits what was appended and leaves the shard unfinished, to be resumed; leaving it
    normally closes the shard. A store is complete when all its shards are closed. A writer belongs to the process
    that opened it: its forks are refused, and do not keep its lock.

    Args:
        directory: the store; made where it does not exist.
        dimension: d, numbers a row.
        dtype: `float16`, `int8` (with a scale a row) or `float32`.
        identity: what the rows are made with (seed, policy digest, version of the sketch, ...).
        shard: number of the shard, such as the rank of the process.

    Raises:
        StoreMismatchError: the directory holds a store made with something else; names each difference.
        StoreCorruptError: its files are damaged in a way that no crash explains.
        StoreError: another writer holds the shard, a foreign directory, or the disk refuses.
    """

    done: set[str]
    """Prompt ids that were committed when the shard was opened, in any shard: no need to append these."""

    def __init__(
        self,
        directory: str | Path,
        *,
        dimension: int,
        dtype: str = "float16",
        identity: Identity,
        shard: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.dimension = dimension
        self._appended: dict[str, _core.Receipt] = {}
        self._appending = threading.Lock()
        asked = checked_description(dimension, dtype, identity)
        if isinstance(shard, bool) or not isinstance(shard, int) or not 0 <= shard < SHARDS:
            raise StoreError(f"shard must be a whole number from 0 to {SHARDS - 1}, found {shard!r}")
        _make_directory(self.directory)
        settle_description(self.directory, asked)
        lock = lock_shard(self.directory / f"shard-{shard:05d}.index")
        try:
            self._core = _core.StoreWriter(
                os.fsencode(self.directory),
                lock,
                shard=shard,
                dimension=dimension,
                dtype=dtype,
                description_crc=asked.crc,
                queue_bytes=QUEUE_BYTES,
                verify_everything=False,
            )
        finally:
            os.close(lock)  # the native writer holds a duplicate, and with it the lock
        try:
            self.done = set(SketchReader(self.directory)._row_of)
        except BaseException:
            self._core.stop()
            raise

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
            StoreError: a repeated or unusable prompt id, or an earlier block could not be written (disk full, ...);
                committed rows are safe then. The block was not queued then, and may be appended again.
            KeyboardInterrupt: the block is queued as a whole or not at all; `prompt_id in writer` says which.
        """
        self._core.refuse_child()
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
        receipt = _core.Receipt()
        try:  # Ctrl-C may come between any two steps: the ids are ours again unless the core has the block
            with self._appending:
                self._check_ids(ids)
                self._appended.update(dict.fromkeys(ids, receipt))
            self._core.append(ids, np.ascontiguousarray(rates), phi, receipt)
        except BaseException:
            if not receipt.queued:
                self._forget(ids, receipt)
            raise

    def _forget(self, ids: list[str], receipt: _core.Receipt) -> None:
        for prompt_id in ids:
            if self._appended.get(prompt_id) is receipt:
                del self._appended[prompt_id]

    def __contains__(self, prompt_id: str) -> bool:
        """Whether a prompt needs no `append`: it was there at the beginning, or its block was queued since."""
        receipt = self._appended.get(prompt_id)
        return prompt_id in self.done or (receipt is not None and receipt.queued)

    def flush(self) -> None:
        """Return when every appended block is durable. Raises `StoreError`."""
        self._core.flush()

    def close(self) -> None:
        """Flush, then give the shard's files their final form and name. Raises `StoreError`."""
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
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise StoreError(f"cannot make the store {directory}: {error.strerror}") from error
    foreign = [name for name in names if name not in (NAME, PARTIAL) and not re.fullmatch(r"shard-\d{5}\..*", name)]
    # Another writer may have begun meanwhile: whoever sees its shards finds its store.json, which comes before them.
    if foreign and not (directory / NAME).exists():
        raise StoreError(
            f"{directory} is not a sketch store (no store.json) and holds other files ({foreign[0]}, ...): "
            "choose an empty or a new directory"
        )
