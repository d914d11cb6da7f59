"""Several writers fill one store, a shard each."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import IDENTITY, Batch, batch_of, files, problems, run_program, write

from learnalign.errors import StoreCorruptError, StoreError, StoreMismatchError
from learnalign.store import SketchReader, SketchWriter


def write_shard(directory: Path, shard: int, batches: Iterable[Batch]) -> None:
    with SketchWriter(directory, dimension=37, identity=IDENTITY, shard=shard) as writer:
        for batch in batches:
            if not writer.done.issuperset(batch[0]):
                writer.append(*batch)


def test_shards_are_one_store(tmp_path: Path) -> None:
    """Writers at work at the same time; the order of the rows is that of the shards, whoever was first."""
    batches = [batch_of(number, 1 + number % 4) for number in range(12)]
    store = tmp_path / "store"
    writers = [SketchWriter(store, dimension=37, identity=IDENTITY, shard=k) for k in (2, 0, 7)]
    for number, batch in enumerate(batches):
        writers[number % 3].append(*batch)
    for writer in writers:
        assert not SketchReader(store).complete
        writer.close()
    reader = SketchReader(store)
    order = [batches[n] for start in (1, 0, 2) for n in range(start, 12, 3)]
    assert reader.complete
    assert reader.check() == []
    assert reader.prompt_ids == [prompt_id for batch in order for prompt_id in batch[0]]
    assert len(reader.shards) == 3
    whole = SketchReader(write(tmp_path / "whole", order))
    assert np.array_equal(np.concatenate(reader.shards), whole.shards[0])
    assert np.array_equal(reader.norm, whole.norm)
    assert np.array_equal(reader.success_rate, whole.success_rate)
    for prompt_id in reader.prompt_ids:
        assert np.array_equal(reader[prompt_id], whole[prompt_id])


def test_a_shard_resumes_alone(tmp_path: Path) -> None:
    """One of three processes is killed; its shard ends as if it had not been, the others' are not touched."""
    for shard in range(3):
        assert run_program(tmp_path / "whole", "float16", shard).wait() == 0
    whole = files(tmp_path / "whole")
    store = tmp_path / "store"
    processes = [run_program(store, "float16", shard) for shard in range(3)]
    time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    assert [process.wait() for process in processes][::2] == [0, 0]
    others = {name: content for name, content in files(store).items() if "00001" not in name}
    assert others.items() <= whole.items()
    assert run_program(store, "float16", 1).wait() == 0
    assert files(store) == whole


def test_a_writer_knows_the_rows_of_all_shards(tmp_path: Path) -> None:
    """So that another number of writers can go on."""
    write_shard(tmp_path / "store", 0, [batch_of(0)])
    write_shard(tmp_path / "store", 1, [batch_of(1)])
    with SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY, shard=5) as writer:
        assert writer.done == {*batch_of(0)[0], *batch_of(1)[0]}
        with pytest.raises(StoreError, match="must be unique"):
            writer.append(*batch_of(1))


def test_a_prompt_in_two_shards_is_named(tmp_path: Path) -> None:
    writers = [SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY, shard=k) for k in range(2)]
    for writer in writers:
        writer.append(*batch_of(0))
        writer.close()
    (line,) = problems(tmp_path / "store")
    assert "'prompt 0/0 é' twice, in rows 0 and 3" in line


def test_a_shard_of_another_store_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "store", 0, [batch_of(0)])
    with SketchWriter(tmp_path / "other", dimension=37, identity={"seed": 8}, shard=1) as writer:
        writer.append(*batch_of(1))
    for name in ("shard-00001.npy", "shard-00001.index"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "store" / name)
    with pytest.raises(StoreCorruptError, match=r"written for another store.*crc32c of store\.json"):
        SketchReader(tmp_path / "store")
    (tmp_path / "store" / "shard-00001.npy").unlink()
    shutil.copy(tmp_path / "store" / "shard-00000.index", tmp_path / "store" / "shard-00001.index")
    with pytest.raises(StoreCorruptError, match=r"shard number 0 -> 1"):
        SketchReader(tmp_path / "store")


def test_a_lost_index_is_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "store", 0, [batch_of(0)])
    write_shard(tmp_path / "store", 1, [batch_of(1)])
    (tmp_path / "store" / "shard-00001.index").unlink()
    with pytest.raises(StoreError, match=r"shard-00001\.index is missing"):
        SketchReader(tmp_path / "store")


def test_writers_that_begin_together_agree_on_one_description(tmp_path: Path) -> None:
    """Of eight, four ask for another seed: whoever comes first decides, the others are refused or write."""
    for attempt in range(10):
        refused: list[int] = []
        barrier = threading.Barrier(8)

        def work(shard: int, store: Path, refused: list[int], barrier: threading.Barrier) -> None:
            barrier.wait()
            try:
                SketchWriter(store, dimension=3, identity={"seed": shard % 2}, shard=shard).close()
            except StoreMismatchError:
                refused.append(shard % 2)

        store = tmp_path / str(attempt)
        threads = [threading.Thread(target=work, args=(k, store, refused, barrier)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader = SketchReader(store)
        assert refused == [1 - int(reader.identity["seed"])] * 4
        assert reader.complete
        assert sorted(files(store)) == sorted(
            [
                "store.json",
                *(f"shard-{k:05d}.{end}" for k in range(8) if k % 2 != refused[0] for end in ("index", "npy")),
            ]
        )


@pytest.mark.parametrize("shard", [-1, 100_000, 1.0, True])
def test_bad_shard_numbers_are_refused(tmp_path: Path, shard: Any) -> None:
    with pytest.raises(StoreError, match="shard must be a whole number"):
        SketchWriter(tmp_path / "store", dimension=3, identity={}, shard=shard)
    assert not (tmp_path / "store").exists()
