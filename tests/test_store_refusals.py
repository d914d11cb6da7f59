"""What a store does not take or is not: another identity, a second writer, bad blocks, foreign directories."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_samples import IDENTITY, PROGRAM, batch_of, files, write

from learnalign.errors import ArrayError, StoreCorruptError, StoreError, StoreMismatchError
from learnalign.store import SketchReader, SketchWriter


def test_another_identity_is_refused_with_the_difference(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [batch_of(0)])
    before = files(store)
    for change, line in [
        ({"identity": {"seed": 8, "policy": "0123abcd"}}, "seed 7 -> 8."),
        (
            {"identity": {"seed": 7, "temperature": 1}},
            "policy '0123abcd' -> 'nothing'; temperature 'nothing' -> 1.",
        ),
        ({"dimension": 64}, "dimension 37 -> 64."),
        ({"dtype": "int8"}, "dtype 'float16' -> 'int8'."),
    ]:
        asked: dict[str, Any] = {"dimension": 37, "dtype": "float16", "identity": IDENTITY, **change}
        with pytest.raises(StoreMismatchError) as refusal:
            SketchWriter(store, **asked)
        assert line in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert files(store) == before


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "store", [batch_of(0)])
    text = (store / "store.json").read_text()
    (store / "store.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreMismatchError, match="format version 2 -> 1"):
        SketchReader(store)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with SketchWriter(tmp_path / "store", dimension=513, identity={"seed": 3}) as writer:
        with pytest.raises(StoreError, match="another process is writing"):
            SketchWriter(tmp_path / "store", dimension=513, identity={"seed": 3})
        command = [sys.executable, str(PROGRAM), str(tmp_path / "store"), "float16", "0"]
        other = subprocess.run(command, capture_output=True, text=True)
        assert "another process is writing" in other.stderr
        writer.append(*batch_of(0, 2, 513))
    SketchWriter(tmp_path / "store", dimension=513, identity={"seed": 3}).close()


def test_bad_blocks_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    ids, rates, phi = batch_of(0)
    bad: list[tuple[type[Exception], str, Any, Any, Any]] = [
        (ArrayError, r"float32 array \[3, 37\]", ids, rates, phi[:, :36]),
        (ArrayError, r"float32 array \[3, 37\]", ids, rates, phi.astype(np.float64)),
        (ArrayError, "found list", ids, rates, phi.tolist()),
        (ArrayError, "C-contiguous", ids, rates, np.asfortranarray(phi)),
        (ArrayError, r"success_rate must be float64 \[3\]", ids, rates[:2], phi),
        (ArrayError, r"lie in \[0, 1\]", ids, rates + 1.0, phi),
        (ArrayError, r"lie in \[0, 1\]", ids, rates * np.nan, phi),
        (StoreError, "must be unique", [ids[0], ids[1], ids[0]], rates, phi),
        (StoreError, "1 to 65536 bytes, found 0", ["", *ids[1:]], rates, phi),
        (StoreError, "1 to 65536 bytes, found 65537", ["x" * 65537, *ids[1:]], rates, phi),
        (StoreError, "UTF-8", ["\ud800", *ids[1:]], rates, phi),
        (StoreError, "must be a string, found 5", [5, *ids[1:]], rates, phi),
    ]
    with SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY) as writer:
        for kind, line, *block in bad:
            with pytest.raises(kind, match=line):
                writer.append(*block)
        writer.append(ids, rates, phi)
        with pytest.raises(StoreError, match="must be unique"):
            writer.append(ids, rates, phi)
    with pytest.raises(StoreError, match="is closed"):
        writer.append(*batch_of(1))
    assert SketchReader(tmp_path / "store").prompt_ids == ids


def make_foreign(directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")


def lose_description(directory: Path) -> None:
    (write(directory, [batch_of(0)]) / "store.json").unlink()


def lose_data(directory: Path) -> None:
    (write(directory, [batch_of(0)]) / "shard-00000.npy").unlink()


def keep_both_names(directory: Path) -> None:
    write(directory, [batch_of(0)])
    shutil.copy(directory / "shard-00000.npy", directory / "shard-00000.npy.unfinished")


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (make_foreign, "holds other files"),
        (lose_description, r"has rows but no store\.json.* delete .*store and run the same command again"),
        (lose_data, "is missing"),
        (keep_both_names, "holds both"),
    ],
)
def test_what_is_not_a_store_is_left_alone(tmp_path: Path, prepare: Callable[[Path], None], line: str) -> None:
    prepare(tmp_path / "store")
    before = files(tmp_path / "store")
    with pytest.raises(StoreError, match=line):
        SketchWriter(tmp_path / "store", dimension=37, identity=IDENTITY)
    assert files(tmp_path / "store") == before


def test_reading_what_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"it has no store\.json"):
        SketchReader(tmp_path)
    lose_description(tmp_path / "undescribed")
    with pytest.raises(StoreCorruptError, match=r"has rows but no store\.json.* run the same command again"):
        SketchReader(tmp_path / "undescribed")
    lose_data(tmp_path / "store")
    with pytest.raises(StoreError, match="is missing"):
        SketchReader(tmp_path / "store")


@pytest.mark.parametrize(
    "asked",
    [
        {"dimension": 0},
        {"dimension": 2.0},
        {"dimension": True},
        {"dtype": "float64"},
        {"identity": {"seed": 0.5}},
        {"identity": {"seed": None}},
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="must"):
        SketchWriter(tmp_path / "store", **{"dimension": 37, "identity": IDENTITY, **asked})
    assert not (tmp_path / "store").exists()
