"""Files of a store that are cut short or changed: what is gone is noticed, the rest is there."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, batch_of, files, problems, small_unfinished, unit, write

from learnalign.store import SketchReader, SketchWriter

FLIPS = int(os.environ.get("LEARNALIGN_FLIPS", "10000"))


@pytest.mark.parametrize("finished", [False, True])
def test_cut_at_every_byte(tmp_path: Path, finished: bool) -> None:
    """Whatever is cut off: the rest opens as a prefix, is not called complete, and resumes to the same bytes."""
    batches = [batch_of(number, 2, 5) for number in range(3)]
    store = small_unfinished(tmp_path / "store", 3)
    whole = files(write(tmp_path / "whole", batches, "float32", dimension=5))
    if finished:
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "whole", store)
    original = files(store)
    data = next(name for name in original if name.startswith("shard-00000.npy"))
    ids = [prompt_id for batch in batches for prompt_id in batch[0]]
    cuts = [("shard-00000.index", size) for size in range(len(original["shard-00000.index"]))]
    cuts += [(data, size) for size in [0, 17, *range(4090, len(original[data]))]]
    for number, (name, size) in enumerate(cuts):
        (store / name).write_bytes(original[name][:size])
        reader = SketchReader(store)
        assert reader.prompt_ids == ids[: reader.rows]
        assert not reader.complete
        if finished:
            assert reader.check() != []
        for _, part in reader.blocks():
            assert np.abs(part - unit(np.concatenate([b[2] for b in batches]))[: reader.rows]).max() < 1e-6
        if number % 23 == 0:
            write(store, batches, "float32", dimension=5)
            assert files(store) == whole
            shutil.rmtree(store)
            store.mkdir()
            for other, content in original.items():
                (store / other).write_bytes(content)
        (store / name).write_bytes(original[name])


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """Random single bits of every file, one at a time, and every byte of the rows."""
    store = write(tmp_path / "store", [batch_of(number, 2, 5) for number in range(3)], "int8", dimension=5)
    assert problems(store) == []
    chance = random.Random(13)
    original = files(store)
    flips = [("shard-00000.npy", 4096 + byte) for byte in range(30)]
    for _ in range(FLIPS):
        name = chance.choice(list(original))
        flips.append((name, chance.randrange(len(original[name]))))
    for name, byte in flips:
        changed = original[name][byte] ^ 1 << chance.randrange(8)
        with open(store / name, "rb+") as file:
            file.seek(byte)
            file.write(bytes([changed]))
            file.flush()
            assert problems(store), f"{name}, byte {byte}"
            file.seek(byte)
            file.write(original[name][byte : byte + 1])
    assert files(store) == original
    assert problems(store) == []


def test_check_names_the_damaged_rows(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [batch_of(number) for number in range(4)])
    path = store / "shard-00000.npy"
    content = bytearray(path.read_bytes())
    content[4096 + 4 * 37 * 2] ^= 1
    path.write_bytes(content)
    (damage,) = SketchReader(store).check()
    assert (damage.file, damage.first_row) == ("shard-00000.npy", 3)
    assert damage.prompt_ids == tuple(batch_of(1)[0])
    assert str(damage) == (
        "shard-00000.npy: checksum mismatch in rows 3 to 5: prompts prompt 1/0 é, prompt 1/1 é, prompt 1/2 é"
    )


def test_a_damaged_tail_is_written_again(tmp_path: Path) -> None:
    batches = [batch_of(number) for number in range(4)]
    store = write(tmp_path / "store", batches)
    whole = files(store)
    path = store / "shard-00000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with SketchWriter(store, dimension=37, identity=IDENTITY) as writer:
        assert writer.done == {prompt_id for batch in batches[:3] for prompt_id in batch[0]}
        writer.append(*batches[3])
    assert files(store) == whole
