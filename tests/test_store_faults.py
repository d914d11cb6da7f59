"""Every system call of a writer and a reader fails once: a line that says so, committed rows safe, the rest resumes.

`tests/faults.c` is preloaded and makes them fail. `make reliability` goes through more of them (LEARNALIGN_FAULTS).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_samples import IDENTITY, batch_of, files, problems, write

from learnalign.store import SketchReader, SketchWriter

STEPS = int(os.environ.get("LEARNALIGN_FAULTS", "3"))
"""How many calls of each kind are made to fail, one a run."""

WRITE = """
import sys
from store_samples import IDENTITY, batch_of
from learnalign.errors import StoreError
from learnalign.store import SketchWriter
committed = "nothing"
try:
    with SketchWriter(sys.argv[1], dimension=37, identity=IDENTITY) as writer:
        committed = writer._core.committed_rows
        for number in range(6):
            batch = batch_of(number)
            if not writer.done.issuperset(batch[0]):
                writer.append(*batch)
                writer.flush()
                committed = writer._core.committed_rows
except StoreError as error:
    print(committed, error)
else:
    print("complete")
"""
READ = """
import sys
from learnalign.errors import StoreError
from learnalign.store import SketchReader
try:
    reader = SketchReader(sys.argv[1])
    print(reader.rows, len(reader.shards), reader.check())
    print(reader.total(reader.success_rate * (1 - reader.success_rate)) is not None)
except StoreError as error:
    print("refused", error)
"""


def run(code: str, store: Path, faults: dict[str, str], fault: str, once: bool = True) -> str:
    """What a program says that meets with the fault; it must not crash or hang."""
    tests = str(Path(__file__).parent)
    environment = {**os.environ, **faults, "FAULT": fault, "PYTHONPATH": tests, **({"FAULT_ONCE": "1"} if once else {})}
    command = [sys.executable, "-P", "-c", code, str(store)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "call", ["pwrite", "fdatasync", "fsync", "ftruncate", "rename", "open", "pread", "flock", "mmap"]
)
@pytest.mark.parametrize("begun", [False, True], ids=["a new store", "a finished one that grows"])
def test_a_failing_call_loses_no_committed_row(tmp_path: Path, faults: dict[str, str], call: str, begun: bool) -> None:
    whole = files(write(tmp_path / "whole", [batch_of(number) for number in range(6)]))
    for nth in range(1, STEPS + 1):
        store = tmp_path / f"{call} {nth}"
        if begun:
            write(store, [batch_of(0), batch_of(1)])
        said = run(WRITE, store, faults, f"{call}:{nth}:EIO:shard-")
        assert said == "complete" or "Input/output error" in said, said
        reader_sees = SketchReader(store) if (store / "store.json").exists() else None
        if said == "complete":
            assert reader_sees is not None
            assert reader_sees.complete
            assert files(store) == whole
            continue
        committed = said.split()[0]
        if committed != "nothing":
            assert reader_sees is not None
            assert reader_sees.rows >= int(committed)
        if reader_sees is not None:
            assert [line for line in problems(store) if "checksum" in line or "missing" in line] == []
        write(store, [batch_of(number) for number in range(6)])
        assert files(store) == whole
        assert SketchReader(store).check() == []


@pytest.mark.parametrize("call", ["open", "pread", "mmap"])
def test_a_failing_read_is_an_error_of_ours(tmp_path: Path, faults: dict[str, str], call: str) -> None:
    store = write(tmp_path / "store", [batch_of(number) for number in range(6)])
    plain = run(READ, store, faults, "nothing:1:EIO")
    assert plain == "18 1 []\nTrue"
    for nth in range(1, STEPS + 1):
        said = run(READ, store, faults, f"{call}:{nth}:EIO:shard-")
        assert said == plain or "refused cannot" in said, said
        assert said == plain or "Input/output error" in said, said


@pytest.mark.parametrize("code", [READ, WRITE], ids=["read", "write"])
def test_no_descriptor_is_left(tmp_path: Path, faults: dict[str, str], code: str) -> None:
    store = write(tmp_path / "store", [batch_of(0)])
    said = run(code, store, faults, "open:1:EMFILE:shard-", once=False)
    assert "Too many open files" in said


@pytest.mark.parametrize("where", ["shard-", "store.json"])
def test_a_file_system_without_locks_is_named(tmp_path: Path, faults: dict[str, str], where: str) -> None:
    said = run(WRITE, tmp_path / "store", faults, f"flock:1:ENOLCK:{where}", once=False)
    assert "has no locks (No locks available)" in said
    assert "write to a local disk" in said
    assert "another process" not in said


def test_a_failed_append_to_a_finished_shard_is_not_forgotten(tmp_path: Path, faults: dict[str, str]) -> None:
    """The shard is no longer complete then, and closing it must not say that it is."""
    code = """
import sys
from store_samples import IDENTITY, batch_of
from learnalign.errors import StoreError
from learnalign.store import SketchReader, SketchWriter
writer = SketchWriter(sys.argv[1], dimension=37, identity=IDENTITY)
for step in (lambda: writer.append(*batch_of(1)), writer.flush, writer.close):
    try:
        step()
    except StoreError as error:
        print("failed", error)
print(SketchReader(sys.argv[1]).complete)
"""
    for call in ("rename", "fdatasync", "pwrite"):
        store = write(tmp_path / call, [batch_of(0)])
        said = run(code, store, faults, f"{call}:1:EIO:shard-00000.npy", once=False).splitlines()
        assert [line.split()[0] for line in said] == ["failed", "failed", "failed", "False"], said
        write(store, [batch_of(0), batch_of(1)])
        assert SketchReader(store).complete


def test_interrupted_calls_go_on(tmp_path: Path, faults: dict[str, str]) -> None:
    for call in ("pwrite", "pread"):
        assert run(WRITE, tmp_path / call, faults, f"{call}:2:EINTR:shard-") == "complete"
    with SketchWriter(tmp_path / "pwrite", dimension=37, identity=IDENTITY) as writer:
        assert len(writer.done) == 18
