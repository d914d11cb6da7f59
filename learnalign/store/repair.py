"""Sets damaged rows aside, so that whoever resumes the store computes exactly those again.

Nothing intact is lost: intact rows stay where they are, a damaged block becomes a hole, and the next block that
fits fills it (csrc/FORMAT.md). This module does not compute rows, and cannot restore `store.json`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from learnalign import _core
from learnalign.store.description import read_description
from learnalign.store.lock import lock_shard
from learnalign.store.reader import Damage, shard_number


def repair(directory: str | Path, damage: Iterable[Damage]) -> None:
    """Excluded what `SketchReader(directory).check()` named. Its shards are unfinished afterwards.

    A prompt that two shards hold is not decided upon.

    Raises:
        StoreCorruptError: `store.json` is damaged, or an index is another store's.
        StoreError: not a store, a file is missing, a writer is at work, or the disk refuses.
    """
    directory = Path(directory)
    description = read_description(directory)
    for index_path in sorted({directory / found.index for found in damage if found.index}):
        lock = lock_shard(index_path)
        try:
            _core.StoreWriter(
                os.fsencode(directory),
                lock,
                shard=shard_number(index_path),
                dimension=description.dimension,
                dtype=description.dtype,
                description_crc=description.crc,
                queue_bytes=1,
                verify_everything=True,
            ).stop()
        finally:
            os.close(lock)
