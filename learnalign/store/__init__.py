"""Sketches on disk: written once, durably, in the background; read as memory-mapped NumPy arrays.

A store is a directory: `store.json` says what its rows were made with, `shard-*.npy` holds unit rows that
`numpy.load(mmap_mode="r")` reads without us, `shard-*.index` says which rows count, `shard-*.sum` keeps the sum that
scoring begins with (csrc/FORMAT.md). A block that was appended is there whole or not at all after a crash at any
instant, so that whoever computes the missing blocks again ends with the same bytes. This package does not compute
sketches, scores or selections.

    description   what the rows were made with, and the refusal of other stores
    writer        SketchWriter
    reader        SketchReader, Damage
    repair        damaged rows excluded
    lock          one writer a shard
"""

from learnalign.store.description import DTYPES
from learnalign.store.reader import Damage, SketchReader
from learnalign.store.repair import repair
from learnalign.store.writer import SketchWriter

__all__ = ["DTYPES", "Damage", "SketchReader", "SketchWriter", "repair"]
