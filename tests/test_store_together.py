"""A store that others write, close and resume while it is opened, read and checked; a Ctrl-C at any instant."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, batch_of, files, flip, write

from learnalign.errors import StoreError
from learnalign.store import SketchReader, SketchWriter


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Another thread works again and again meanwhile; its error is ours."""
    stop, failure = threading.Event(), []

    def forever() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=forever)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]


def writer_of(store: Path, shard: int = 0) -> SketchWriter:
    return SketchWriter(store, dimension=37, identity=IDENTITY, shard=shard)


def test_a_writer_opens_while_another_rank_resumes(tmp_path: Path) -> None:
    """The other shard's index, megabytes that take their time to read, is cut, written and closed again and again."""
    store, count = tmp_path / "store", 4000
    with writer_of(store, 1) as writer:
        ids = [f"{i}".rjust(2000) for i in range(count)]
        writer.append(ids, np.ones(count), np.ones((count, 37), np.float32))
    resume = closed_and_resumed(store, 1)
    with beside(resume):
        for _ in range(50):
            writer_of(store).close()
    assert SketchReader(store).check() == []


def closed_and_resumed(store: Path, shard: int = 0) -> Callable[[], None]:
    """Appending makes a finished shard unfinished, closing finished again."""
    count = 0

    def work() -> None:
        nonlocal count
        with writer_of(store, shard) as writer:
            writer.append([f"more {count}"], np.ones(1), np.ones((1, 37), np.float32))
        count += 1

    return work


def test_readers_see_their_rows_whatever_a_writer_does(tmp_path: Path) -> None:
    """Also rows that they first ask for after the file has another name."""
    store = write(tmp_path / "store", [batch_of(0), batch_of(1)])
    expected = SketchReader(store).shards[0].copy()
    with beside(closed_and_resumed(store)):
        for _ in range(60):
            reader = SketchReader(store)
            assert np.array_equal(np.concatenate(reader.shards)[: len(expected)], expected)
            assert len(reader[batch_of(1)[0][0]]) == 37
            assert sum(len(units) for _, units in reader.blocks()) == reader.rows
            assert reader.check() == []


@pytest.mark.parametrize("use", ["shards", "blocks", "row", "check"])
def test_a_rename_between_opening_and_reading(tmp_path: Path, use: str) -> None:
    ids, rates, phi = batch_of(0)
    writer = writer_of(tmp_path / "store")
    writer.append(ids, rates, phi)
    writer.flush()
    reader = SketchReader(tmp_path / "store")
    writer.close()
    found = {
        "shards": lambda: np.concatenate(reader.shards),
        "blocks": lambda: np.concatenate([units for _, units in reader.blocks()]),
        "row": lambda: np.stack([reader[prompt_id] for prompt_id in ids]),
        "check": lambda: reader.check() or np.zeros((3, 37)),
    }[use]()
    assert np.shape(found) == (3, 37)


def test_a_check_still_names_what_is_damaged(tmp_path: Path) -> None:
    """A writer at work on one shard is no excuse for another."""
    store = write(tmp_path / "store", [batch_of(0)])
    flip(store / "shard-00000.npy", 4096 + 11)
    count = 0

    def more() -> None:
        nonlocal count
        writer = writer_of(store, 1)
        writer.append([f"more {count}"], np.ones(1), np.ones((1, 37), np.float32))
        writer._core.stop()
        count += 1

    with beside(more):
        for _ in range(20):
            assert [damage.prompt_ids for damage in SketchReader(store).check()] == [tuple(batch_of(0)[0])]


def test_ctrl_c_in_append_and_the_same_block_again(tmp_path: Path) -> None:
    """The writer says whether it has the block; appended again where it has not, it is there once."""
    code = f"""
import os, signal, threading, time
import numpy as np
from learnalign.errors import StoreError
from learnalign.store import SketchReader, SketchWriter
phi = np.ones((3000, 256), np.float32)
path = {str(tmp_path / "store")!r}
writer = SketchWriter(path, dimension=256, identity={{}})
def interrupt(after):
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGINT)
interrupted = 0
for block in range(60):
    ids = [f"{{block}}/{{i}}" for i in range(3000)]
    start = time.perf_counter()
    while ids[0] not in writer:
        try:
            if block % 3:
                threading.Thread(target=interrupt, args=(block / 8000,)).start()
            writer.append(ids, np.ones(3000), phi)
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
            continue
    try:
        time.sleep(0.02)
    except KeyboardInterrupt:
        pass
writer.close()
reader = SketchReader(path)
assert reader.complete and reader.rows == 180_000, reader.rows
assert reader["59/2999"] is not None
assert interrupted > 10, interrupted
print("once each")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "once each", result.stderr


class Interrupted:
    """A core whose append is followed by Ctrl-C, at once, as the interpreter may deliver it."""

    def __init__(self, core: object) -> None:
        self._core = core

    def __getattr__(self, name: str) -> object:
        return getattr(self._core, name)

    def append(self, *arguments: object) -> None:
        self._core.append(*arguments)  # type: ignore[attr-defined]
        raise KeyboardInterrupt


def test_ctrl_c_right_after_the_block_was_queued(tmp_path: Path) -> None:
    with writer_of(tmp_path / "store") as writer:
        core = writer._core
        writer._core = Interrupted(core)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            writer.append(*batch_of(0))
        writer._core = core
        with pytest.raises(StoreError, match="must be unique"):
            writer.append(*batch_of(0))
        writer.append(*batch_of(1))
    reader = SketchReader(tmp_path / "store")
    assert reader.rows == 6
    assert reader.check() == []
    assert files(tmp_path / "store") == files(write(tmp_path / "whole", [batch_of(0), batch_of(1)]))


def test_ids_of_a_block_that_was_not_queued_are_free_again(tmp_path: Path) -> None:
    ids, rates, phi = batch_of(0)
    with writer_of(tmp_path / "store") as writer:
        writer.append(ids, rates, phi)
        with pytest.raises(StoreError, match="must be unique"):
            writer.append(["new", ids[0]], rates[:2], phi[:2])
        assert ids[0] in writer
        assert "new" not in writer
        writer.append(["new"], rates[:1], phi[:1])
        with pytest.raises(StoreError, match="must be unique"):
            writer.append(ids, rates, phi)


def test_paths_need_not_be_utf_8(tmp_path: Path) -> None:
    store = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe store"))
    write(store, [batch_of(0)])
    reader = SketchReader(store)
    assert reader.check() == []
    assert reader.total(reader.success_rate * (1 - reader.success_rate)) is not None
    flip(store / "shard-00000.index", 20)
    (store / "shard-00000.npy").unlink()
    with pytest.raises(StoreError, match="shard-00000"):
        writer_of(store)


def test_an_identity_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"identity must fit 1,048,576 bytes of JSON, found 1,\d{3},\d{3}"):
        SketchWriter(tmp_path / "store", dimension=3, identity={"policy": "x" * (1 << 20)})
    assert not (tmp_path / "store").exists()
    with SketchWriter(tmp_path / "store", dimension=3, identity={"policy": "x" * ((1 << 20) - 500)}):
        pass
    assert SketchReader(tmp_path / "store").complete
