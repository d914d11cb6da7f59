"""Files are written whole or not at all, with bytes that depend on the content alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnalign import files
from learnalign.errors import RunError


def nested_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(rows), pa.int64()),
            "text": [None if i % 7 == 0 else f"row {i} " * 8 for i in range(rows)],
            "messages": [[{"role": "user", "content": str(j)} for j in range(i % 3)] for i in range(rows)],
        }
    )


def test_each_writer_replaces_and_leaves_no_partial(tmp_path: Path) -> None:
    for attempt in ("old", "new"):
        files.write_bytes(tmp_path / "b", attempt.encode())
        files.write_text(tmp_path / "t", attempt + "é")
        files.write_json(tmp_path / "j", {"b": 1, "a": attempt})
        files.write_parquet(tmp_path / "p", pa.table({"x": [attempt]}))
    assert (tmp_path / "b").read_bytes() == b"new"
    assert (tmp_path / "t").read_bytes() == "newé".encode()
    assert list(json.loads((tmp_path / "j").read_text())) == ["a", "b"]
    assert pq.read_table(tmp_path / "p").to_pylist() == [{"x": "new"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "j", "p", "t"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "j", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "j", {"x": float("nan")})
    assert json.loads((tmp_path / "j").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


@pytest.mark.parametrize("rows", [0, 1, files.ROW_GROUP, files.ROW_GROUP + 1])
def test_parquet_bytes_do_not_depend_on_chunks(tmp_path: Path, rows: int) -> None:
    table = nested_table(rows)
    cuts = sorted({0, 1, rows // 3, rows // 2, rows} & set(range(rows + 1)))
    pieces = [table.slice(a, b - a) for a, b in pairwise(cuts)]
    chunked = pa.concat_tables(pieces) if pieces else table
    files.write_parquet(tmp_path / "whole", table)
    files.write_parquet(tmp_path / "chunked", chunked)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "chunked").read_bytes()
    assert pq.read_table(tmp_path / "whole").equals(table)


def test_parquet_keeps_schema_metadata(tmp_path: Path) -> None:
    table = nested_table(3).replace_schema_metadata({"made": "by hand"})
    files.write_parquet(tmp_path / "p", table)
    assert pq.read_schema(tmp_path / "p").equals(table.schema, check_metadata=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EIO])
def test_failed_flush_is_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files.write_bytes(tmp_path / "x", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError) as caught:
        files.write_bytes(tmp_path / "x", b"new")
    message = str(caught.value)
    assert str(tmp_path / "x") in message
    assert os.strerror(number).lower() in message
    assert "\n" not in message
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_directory_that_cannot_be_flushed_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    files.write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


FULL = """
import resource, sys
import pyarrow as pa
from learnalign import files
from learnalign.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
table = pa.table({"x": pa.array([str(i * 7919 % 1000003) * 5 for i in range(200000)])})
writes = [
    lambda: files.write_bytes(sys.argv[1] + "/bytes", bytes(1 << 20)),
    lambda: files.write_parquet(sys.argv[1] + "/table", table),
]
for write in writes:
    try:
        write()
    except RunError as error:
        print(error)
"""


def test_limit_on_file_size_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The real thing, in a process of its own: the kernel refuses to write beyond 64 KiB."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("file too large" in line and str(tmp_path) in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parent", ["missing", "a-file"])
def test_directory_that_is_none(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(RunError, match="create the directory first"):
        files.write_text(tmp_path / parent / "x", "text")


def test_interrupt_removes_the_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_sha256_and_partials(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    (tmp_path / "y.partial").write_bytes(data)
    (tmp_path / "folder.partial").mkdir()
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()
    assert files.remove_partials(tmp_path) == 1
    assert files.remove_partials(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.partial", "x"]
    with pytest.raises(RunError, match=r"cannot read .*no such file"):
        files.sha256_file(tmp_path / "none")
