"""A store that was stopped or killed goes on where it was, and ends with the bytes of one that was not.

LEARNALIGN_KILLS=200 python -m pytest tests/test_store_resume.py -k killed    a longer run of the kill test
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, batch_of, files, run_program, unit, write

from learnalign.store import DTYPES, SketchReader, SketchWriter

KILLS = int(os.environ.get("LEARNALIGN_KILLS", "40"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_resumed_equals_uninterrupted(tmp_path: Path, dtype: str) -> None:
    batches = [batch_of(number) for number in range(5)]
    whole = files(write(tmp_path / "whole", batches, dtype))
    writer = SketchWriter(tmp_path / "store", dimension=37, dtype=dtype, identity=IDENTITY)
    for batch in batches[:2]:
        writer.append(*batch)
    with pytest.raises(RuntimeError, match="stop here"), writer:
        raise RuntimeError("stop here")

    reader = SketchReader(tmp_path / "store")
    assert (reader.rows, reader.complete) == (6, False)
    assert reader.check() == []
    write(tmp_path / "store", batches[:4], dtype)
    assert SketchReader(tmp_path / "store").complete
    complete = files(tmp_path / "store")
    write(tmp_path / "store", batches[:4], dtype)  # nothing to do
    assert files(tmp_path / "store") == complete
    write(tmp_path / "store", batches, dtype)  # a complete store takes more rows
    assert files(tmp_path / "store") == whole


def test_flushed_rows_are_readable_at_once(tmp_path: Path) -> None:
    with SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY) as writer:
        writer.append(*batch_of(0))
        writer.flush()
        reader = SketchReader(tmp_path / "store")
        assert (reader.rows, reader.complete) == (3, False)
        assert np.abs(reader["prompt 0/1 é"] - unit(batch_of(0)[2])[1]).max() < 1e-3


def test_killed_at_random_instants(tmp_path: Path) -> None:
    """SIGKILL loses no flushed row, and the resumed store ends with the bytes of an uninterrupted one."""
    dtype = "float16"
    process = run_program(tmp_path / "whole", dtype)
    start = time.monotonic()
    assert process.wait() == 0
    seconds = time.monotonic() - start
    whole = files(tmp_path / "whole")

    chance, kills, store = random.Random(11), 0, tmp_path / "store"
    while kills < KILLS:
        process = run_program(store, dtype)
        time.sleep(chance.uniform(0, seconds / 3))
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        kills += process.returncode == -signal.SIGKILL
        flushed = [int(rows) for rows in re.findall(r"flushed (\d+)\n", output)]
        if not (store / "store.json").exists():
            assert flushed == []
            continue
        reader = SketchReader(store)
        assert reader.rows >= max(flushed, default=0)
        assert reader.rows % 7 == 0, "a block is there whole or not at all"
        if reader.complete:
            assert files(store) == whole
            shutil.rmtree(store)
    process = run_program(store, dtype)
    assert process.wait() == 0
    assert files(store) == whole
