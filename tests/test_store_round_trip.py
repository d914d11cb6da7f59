"""The sketch store gives back what it was given, in bytes that depend on nothing else."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, SIMD, Batch, batch_of, files, unit, write

from learnalign import _core
from learnalign.store import DTYPES, SketchReader
from learnalign.store.description import read_description


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    batches = [batch_of(number, rows) for number, rows in enumerate([3, 1, 8, 2])]
    reader = SketchReader(write(tmp_path / "store", batches, dtype))
    phi = np.concatenate([batch[2] for batch in batches])
    tolerance = {"float16": 2.0**-12, "float32": 1e-7, "int8": 0.5 * reader.scale.max() * 1.0001}[dtype]

    assert (reader.rows, reader.dimension, reader.dtype, reader.identity) == (14, 37, dtype, IDENTITY)
    assert reader.complete
    assert reader.check() == []
    assert reader.prompt_ids == [prompt_id for batch in batches for prompt_id in batch[0]]
    assert np.array_equal(reader.success_rate, np.concatenate([batch[1] for batch in batches]))
    np.testing.assert_allclose(reader.norm, np.linalg.norm(phi.astype(np.float64), axis=1), rtol=1e-14)
    starts, parts = zip(*reader.blocks(rows=4), strict=True)
    assert starts == (0, 4, 8, 12)
    decoded = np.concatenate(parts)
    assert decoded.dtype == np.float32
    assert np.abs(decoded - unit(phi)).max() <= tolerance
    for row, prompt_id in enumerate(reader.prompt_ids):
        assert np.array_equal(reader[prompt_id], decoded[row])
    assert "prompt 99" not in reader
    with pytest.raises(KeyError):
        reader["prompt 99"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_reads_the_finished_shard_without_us(tmp_path: Path, dtype: str) -> None:
    reader = SketchReader(write(tmp_path / "store", [batch_of(0), batch_of(1)], dtype))
    plain = np.load(tmp_path / "store" / "shard-00000.npy", mmap_mode="r")
    assert plain.dtype == np.dtype(dtype)
    assert plain.shape == (6, 37)
    assert np.array_equal(plain, reader.shards[0])
    assert isinstance(reader.shards[0], np.memmap)
    assert plain.offset % 4096 == 0


@pytest.mark.parametrize("path", SIMD)
def test_half_precision_is_rounded_as_numpy_rounds(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Magnitudes from 1 down through the subnormal halves to nothing, and a ragged length."""
    monkeypatch.setenv("LEARNALIGN_SIMD", path)
    rng = np.random.default_rng(5)
    phi = (rng.standard_normal((50, 1003)) * 2.0 ** rng.uniform(-30, 3, (50, 1003))).astype(np.float32)
    ids, rates = [str(row) for row in range(50)], np.full(50, 0.5)
    reader = SketchReader(write(tmp_path / "store", [(ids, rates, phi)], dimension=1003))
    expected = (phi * (1.0 / reader.norm)[:, None]).astype(np.float32).astype(np.float16)
    assert np.array_equal(reader.shards[0].view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_do_not_depend_on_the_simd_path(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []
    for path in SIMD:
        monkeypatch.setenv("LEARNALIGN_SIMD", path)
        stores.append(files(write(tmp_path / path, [batch_of(0, 20), batch_of(1, 20)], dtype)))
    assert all(store == stores[0] for store in stores)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_non_finite_rows_are_kept_as_zeros(tmp_path: Path, dtype: str) -> None:
    ids, rates, phi = batch_of(0, 5)
    phi[1], phi[2, 36], phi[3, 0] = 0.0, np.nan, -np.inf
    reader = SketchReader(write(tmp_path / "store", [(ids, rates, phi)], dtype))
    assert reader.norm[1] == 0.0
    assert np.isnan(reader.norm[2:4]).all()
    assert np.isfinite(reader.norm[[0, 4]]).all()
    assert not reader.shards[0][1:4].any()
    assert not reader.scale[1:4].any()
    assert reader.check() == []


def test_extreme_lengths_are_kept(tmp_path: Path) -> None:
    ids, rates, phi = batch_of(0, 2)
    phi[0] *= 1e38 / np.abs(phi[0]).max()
    phi[1] *= 1e-44 / np.abs(phi[1]).max()
    reader = SketchReader(write(tmp_path / "store", [(ids, rates, phi)], "float32"))
    np.testing.assert_allclose(reader.norm, np.linalg.norm(phi.astype(np.float64), axis=1), rtol=1e-12)
    assert np.abs(np.concatenate([part for _, part in reader.blocks()]) - unit(phi)).max() < 1e-7


def test_empty_store_and_empty_append(tmp_path: Path) -> None:
    reader = SketchReader(write(tmp_path / "store", [([], np.empty(0), np.empty((0, 37), np.float32))]))
    assert reader.complete
    assert (reader.rows, reader.prompt_ids, len(reader.norm)) == (0, [], 0)
    assert [shard.shape for shard in reader.shards] == [(0, 37)]
    assert reader.check() == []


def test_threads_append_whole_blocks(tmp_path: Path) -> None:
    """A queue of one block at a time makes every thread wait for room."""
    directory = write(tmp_path / "store", [])
    with open(directory / "shard-00000.index", "rb+") as index:
        crc = read_description(directory).crc
        core = _core.StoreWriter(str(directory), index.fileno(), 0, 37, "float16", crc, 1, False)
    batches = [batch_of(number) for number in range(40)]

    def work(part: list[Batch]) -> None:
        for batch in part:
            core.append(*batch, _core.Receipt())

    threads = [threading.Thread(target=work, args=(batches[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    core.close()
    reader = SketchReader(directory)
    assert reader.complete
    assert reader.check() == []
    assert sorted(reader.prompt_ids) == sorted(prompt_id for batch in batches for prompt_id in batch[0])
    for start in range(0, reader.rows, 3):
        ids, _, phi = batches[int(reader.prompt_ids[start].split()[1].split("/")[0])]
        assert reader.prompt_ids[start : start + 3] == ids
        assert np.abs(np.array([reader[i] for i in ids]) - unit(phi)).max() < 1e-3


def test_crc32c_has_its_published_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3720's check value, and both implementations on many lengths."""
    data = bytes(random.Random(1).randbytes(10_000))
    sizes = [*range(100), 3071, 3072, 3073, 6144, 9999]  # the instruction runs in three streams of 1,024 bytes
    values = []
    for path in SIMD:
        monkeypatch.setenv("LEARNALIGN_SIMD", path)
        assert _core.crc32c(b"123456789") == 0xE3069283
        values.append([_core.crc32c(data[:size]) for size in sizes])
    assert all(value == values[0] for value in values)
