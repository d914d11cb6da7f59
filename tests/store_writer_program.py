"""Writes one fixed shard, batch by batch, resuming what is there: the process that the kill tests kill.

Usage: store_writer_program.py DIRECTORY DTYPE SHARD. Prints `ready` when it begins to write, and `flushed N` whenever N
rows are durable.
"""

from __future__ import annotations

import sys

import numpy as np

from learnalign.store import SketchWriter

BATCHES, ROWS, DIMENSION = 90, 7, 513


def main(directory: str, dtype: str, shard: int) -> None:
    print("ready", flush=True)
    rows = 0
    with SketchWriter(directory, dimension=DIMENSION, dtype=dtype, identity={"seed": 3}, shard=shard) as writer:
        for batch in range(BATCHES):
            ids = [f"prompt {shard}/{batch}/{row}" for row in range(ROWS)]
            rows += ROWS
            if writer.done.issuperset(ids):
                continue
            rng = np.random.default_rng([shard, batch])
            phi = rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
            writer.append(ids, rng.integers(1, 8, ROWS) / 8, phi)
            if batch % 3 == 0:
                writer.flush()
                print(f"flushed {rows}\n", end="", flush=True)  # one write, so that no kill cuts it in two


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
