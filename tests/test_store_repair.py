"""Damage is excluded, and nothing else: what is computed again brings back the very bytes."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, batch_of, files, flip, repaired, write

from learnalign.errors import StoreError
from learnalign.store import DTYPES, SketchReader, SketchWriter


def record_start(store: Path, block: int) -> int:
    """Where the record of a block begins in the first shard's index."""
    content = (store / "shard-00000.index").read_bytes()
    offset = 64
    for _ in range(block):
        offset += struct.unpack_from("<Q", content, offset + 8)[0]
    return offset


ROW = 5 * 4
DAMAGES: dict[str, tuple[str, Callable[[Path], int], list[int]]] = {
    "a row": ("shard-00000.npy", lambda _: 4096 + 5 * ROW, [2]),
    "the last row": ("shard-00000.npy", lambda _: 4096 + 39 * ROW, [19]),
    "a record": ("shard-00000.index", lambda store: record_start(store, 1) + 40, [1]),
    "the length of a record": ("shard-00000.index", lambda store: record_start(store, 4) + 8, [4]),
    "the last record": ("shard-00000.index", lambda store: record_start(store, 19), [19]),
    "the closing record": ("shard-00000.index", lambda store: record_start(store, 20) + 9, []),
    "the index header": ("shard-00000.index", lambda _: 20, []),
    "the data header": ("shard-00000.npy", lambda _: 60, []),
    "the sum": ("shard-00000.sum", lambda _: 30, []),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_repaired_and_resumed_equals_undamaged(tmp_path: Path, name: str) -> None:
    """Of 20 blocks the damaged one is computed again, no other, and the bytes are those of before."""
    batches = [batch_of(number, 2, 5) for number in range(20)]
    store = write(tmp_path / "store", batches, "float32", dimension=5)
    whole = files(store)
    file, byte, lost = DAMAGES[name]
    flip(store / file, byte(store))
    found = repaired(store)
    assert [damage.file for damage in found][:1] == [file]
    named = {prompt_id for damage in found for prompt_id in damage.prompt_ids}
    if file.endswith(".npy"):
        assert named == {prompt_id for block in lost for prompt_id in batches[block][0]}
    reader = SketchReader(store)
    assert reader.prompt_ids == [i for n, batch in enumerate(batches) if n not in lost for i in batch[0]]
    assert not reader.complete
    assert reader.check() == []
    with SketchWriter(store, dimension=5, dtype="float32", identity=IDENTITY) as writer:
        assert writer.done == set(reader.prompt_ids)
        for block in lost:
            writer.append(*batches[block])
    assert files(store) == whole


def test_random_damage_is_repaired(tmp_path: Path) -> None:
    """Many flipped bits in both files of a shard: what is left is right, and the rest can be computed again."""
    batches = [batch_of(number, 1 + number % 3, 5) for number in range(30)]
    whole = files(write(tmp_path / "whole", batches, "int8", dimension=5))
    for seed in range(20):
        chance = random.Random(seed)
        store = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"store {seed}"))
        for _ in range(8):
            name = chance.choice(["shard-00000.npy", "shard-00000.index"])
            flip(store / name, chance.randrange(4096 if name.endswith("npy") else 64, len(whole[name])))
        repaired(store)
        assert SketchReader(store).check() == []
        assert files(write(store, batches, "int8", dimension=5)) == whole


def test_killed_between_repair_and_the_end(tmp_path: Path) -> None:
    """Stopped after every number of blocks, a repaired store still ends as the undamaged one."""
    batches = [batch_of(number, 2, 5) for number in range(9)]
    whole = files(write(tmp_path / "whole", batches, "float32", dimension=5))
    store = Path(shutil.copytree(tmp_path / "whole", tmp_path / "store"))
    for block in (1, 4, 6):
        flip(store / "shard-00000.npy", 4096 + 2 * block * ROW)
    repaired(store)
    for block in (1, 4, 6):
        writer = SketchWriter(store, dimension=5, dtype="float32", identity=IDENTITY)
        writer.append(*batches[block])
        writer._core.stop()
        assert SketchReader(store).check() == []
    assert files(write(store, batches, "float32", dimension=5)) == whole


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_computed_again_in_other_blocks(tmp_path: Path, dtype: str) -> None:
    """A block that fits no hole goes to the end; the hole holds zeros and does not count."""
    batches = [batch_of(number, 4) for number in range(6)]
    store = write(tmp_path / "store", batches, dtype)
    before = {prompt_id: SketchReader(store)[prompt_id] for batch in batches for prompt_id in batch[0]}
    flip(store / "shard-00000.npy", 4096 + 10 * 37 * np.dtype(dtype).itemsize)
    repaired(store)
    ids, rates, phi = batches[2]
    other = batch_of(99, 1)
    joined = ([*ids, *other[0]], np.concatenate([rates, other[1]]), np.concatenate([phi, other[2]]))
    write(store, [joined], dtype)
    reader = SketchReader(store)
    assert reader.complete
    assert reader.check() == []
    kept = [i for number in (0, 1, 3, 4, 5) for i in batches[number][0]]
    assert reader.prompt_ids == [*kept, *ids, *other[0]]
    assert [len(view) for view in reader.shards] == [8, 17]
    assert all(np.array_equal(reader[prompt_id], row) for prompt_id, row in before.items())
    assert np.array_equal(np.concatenate([part for _, part in reader.blocks(3)])[20:24], [before[i] for i in ids])
    plain = np.load(store / "shard-00000.npy")
    assert plain.shape == (29, 37)
    assert not plain[8:12].any()


def test_repair_leaves_an_intact_store_alone(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [batch_of(0), batch_of(1)])
    before = files(store)
    assert repaired(store) == []
    assert files(store) == before


def test_repair_refuses_while_a_writer_is_at_work(tmp_path: Path) -> None:
    with SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY) as writer:
        writer.append(*batch_of(0))
        writer.flush()
        flip(tmp_path / "store" / "shard-00000.npy.unfinished", 4096)
        with pytest.raises(StoreError, match="another process is writing"):
            repaired(tmp_path / "store")
