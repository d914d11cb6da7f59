"""The sum that a store keeps of its rows is the one that scoring would make, or is not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_samples import IDENTITY, batch_of, files, flip, problems, repaired, write

from learnalign import _core
from learnalign.errors import ArrayError, StoreCorruptError
from learnalign.scoring import score_shards
from learnalign.store import DTYPES, SketchReader, SketchWriter


def rows_of(reader: SketchReader) -> np.ndarray:
    return np.concatenate(reader.shards)


def kept_learnability(reader: SketchReader) -> np.ndarray:
    return reader.success_rate * (1.0 - reader.success_rate)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [[1], [3, 1, 250, 2, 7, 300, 1], [257, 255, 2], [1] * 30])
def test_the_kept_sum_is_the_scorers_first_pass(tmp_path: Path, dtype: str, sizes: list[int]) -> None:
    """The definition to 1e-9, and the bits of the first pass, however the rows were cut into blocks."""
    batches = [batch_of(number, rows) for number, rows in enumerate(sizes)]
    if sizes[0] > 1:
        batches[0][2][0], batches[0][2][1, 3] = 0.0, np.nan
    reader = SketchReader(write(tmp_path / "store", batches, dtype))
    learnability = kept_learnability(reader)
    total = reader.total(learnability)
    assert total is not None
    wide = rows_of(reader).astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    units = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    np.testing.assert_allclose(total, learnability @ units, rtol=0, atol=1e-9 * max(1.0, np.abs(total).max()))
    assert total.tobytes() == _core.sum_unit_rows(reader.shards, learnability, False, 2)[0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_the_same_with_the_kept_sum(tmp_path: Path, dtype: str) -> None:
    """Bit by bit of one shard; of three to rounding, which for int8 is that of weights within a block."""
    batches = [batch_of(number, 90) for number in range(6)]
    for shards in (1, 3):
        for number, batch in enumerate(batches):
            store, shard = tmp_path / f"of {shards}", number % shards
            with SketchWriter(store, dimension=37, dtype=dtype, identity=IDENTITY, shard=shard) as writer:
                writer.append(*batch)
        reader = SketchReader(store)
        learnability = kept_learnability(reader)
        total = reader.total(learnability)
        assert total is not None
        twice = score_shards(reader.shards, learnability, pool_size=reader.rows)
        once = score_shards(reader.shards, learnability, pool_size=reader.rows, total=total)
        for one, two in zip(once, twice, strict=True):
            rounding = 0.0 if shards == 1 else 1e-8 if dtype == "int8" else 1e-12
            assert np.abs(one - two).max() <= rounding * np.abs(two).max()


def test_the_kept_sum_is_of_its_own_learnability_only(tmp_path: Path) -> None:
    ids, rates, phi = batch_of(0, 9)
    phi[4] = 0.0
    reader = SketchReader(write(tmp_path / "store", [(ids, rates, phi)]))
    learnability = kept_learnability(reader)
    assert learnability.max() > 0
    kept = reader.total(learnability)
    without_bias = learnability * 8 / 7
    next_number = learnability.copy()
    next_number[2] = np.nextafter(next_number[2], 1.0)
    for other in (np.ones(9), without_bias, next_number, np.zeros(9), learnability * np.nan):
        assert reader.total(other) is None
    learnability[4] = 0.25 - learnability[4]  # a row of zeros adds nothing
    assert np.array_equal(reader.total(learnability), kept)  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match=r"shape \[9\], found \[8\]"):
        reader.total(learnability[:8])


def test_a_damaged_sum_is_never_used(tmp_path: Path) -> None:
    """Flipped at every byte, cut at every byte, another store's, an earlier one: None, and the next writer mends it."""
    store = write(tmp_path / "store", [batch_of(number, 2, 5) for number in range(3)], "int8", dimension=5)
    other = write(tmp_path / "other", [batch_of(number, 2, 5) for number in range(4, 7)], "int8", dimension=5)
    path, whole = store / "shard-00000.sum", files(store)
    content = path.read_bytes()
    flipped = [content[:byte] + bytes([content[byte] ^ 4]) + content[byte + 1 :] for byte in range(len(content))]
    cut = [content[:size] for size in range(len(content))]
    longer, foreign = content + b"\0", (other / path.name).read_bytes()
    reader = SketchReader(store)
    learnability = kept_learnability(reader)
    assert reader.total(learnability) is not None
    for bad in [*flipped, *cut, longer, foreign]:
        path.write_bytes(bad)
        assert reader.total(learnability) is None
        (line,) = problems(store)
        assert line.startswith("shard-00000.sum: not the sum of these rows")
    assert SketchReader(store).complete, "no row is damaged"
    write(store, [], "int8", dimension=5)
    assert files(store) == whole

    path.unlink()
    assert reader.total(learnability) is None
    assert problems(store) == []
    write(store, [], "int8", dimension=5)
    assert files(store) == whole

    write(store, [batch_of(9, 2, 5)], "int8", dimension=5)
    path.write_bytes(content)  # of the shard before it grew
    reader = SketchReader(store)
    assert reader.total(kept_learnability(reader)) is None


def test_an_unfinished_shard_has_no_sum(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [batch_of(0)])
    with SketchWriter(store, dimension=37, identity=IDENTITY) as writer:
        writer.append(*batch_of(1))
        writer.flush()
        reader = SketchReader(store)
        assert reader.total(kept_learnability(reader)) is None
        assert not (store / "shard-00000.sum").exists()


def test_leftovers_of_a_kill_while_the_sum_is_written(tmp_path: Path) -> None:
    """Killed before the sum has its name, and before the closing record: both end as if nothing had happened."""
    store = write(tmp_path / "store", [batch_of(0), batch_of(1)])
    whole = files(store)
    for leave in ("shard-00000.sum.partial", "shard-00000.sum"):
        index = (store / "shard-00000.index").read_bytes()
        (store / "shard-00000.index").write_bytes(index[:-40])
        (store / "shard-00000.sum").unlink()
        (store / leave).write_bytes(b"x")
        reader = SketchReader(store)
        assert reader.total(kept_learnability(reader)) is None
        assert files(write(store, [])) == whole


def test_a_damaged_row_is_noticed_when_a_resumed_shard_is_closed(tmp_path: Path) -> None:
    """It would be part of the sum. Nothing is lost: repaired, the shard ends with the bytes of an undamaged one."""
    batches = [batch_of(number) for number in range(4)]
    whole = files(write(tmp_path / "whole", batches))
    store = write(tmp_path / "store", batches[:3])
    writer = SketchWriter(store, dimension=37, identity=IDENTITY)
    writer.append(*batches[3])
    writer.flush()
    flip(store / "shard-00000.npy.unfinished", 4096 + 4 * 37 * 2)
    with pytest.raises(StoreCorruptError, match=r"rows 3 to 5 do not match their checksum: .*check RUN --repair"):
        writer.close()
    assert not SketchReader(store).complete
    assert [damage.prompt_ids for damage in repaired(store)] == [tuple(batches[1][0])]
    assert files(write(store, batches)) == whole
