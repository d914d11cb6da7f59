"""Which files a pool is: what --pool names may be a file, a folder, a glob, or a data set of the Hugging Face hub.

A hub data set (`openai/gsm8k`) is looked for in the local cache alone: nothing is fetched. Rows are numbered through
all files, in their order. This module reads no records.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from learnalign.errors import PoolError
from learnalign.pool.records import KINDS, RecordFile, open_records

Paths = str | Path | Sequence[str | Path]
DATA_SET = re.compile(r"[\w.-]+/[\w.-]+")


def pool_files(paths: Paths) -> list[RecordFile]:
    """The files of a pool, those of a folder or glob in the order of their names. Raises `PoolError`."""
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    if not named or not str(named[0]):
        raise PoolError("no pool given: name a JSONL, JSON or Parquet file with --pool")
    found = [file for one in named for file in _expand(str(one))]
    again = next((file for k, file in enumerate(found) if file in found[:k]), None)
    if again is not None:
        raise PoolError(f"the pool {again} is named twice: name every file once")
    return [open_records(file) for file in found]


def is_data_set(name: str) -> bool:
    """Whether a name can only be that of a data set of the hub: `owner/name`, and no such path."""
    return bool(DATA_SET.fullmatch(name)) and not Path(name).exists() and not Path(name).suffix


def _expand(name: str) -> list[Path]:
    """The files that one name stands for."""
    path = Path(name)
    if path.is_dir():
        return _readable(path, [file for file in path.iterdir() if file.is_file()], f"the folder {path}")
    if path.exists() or not (glob.has_magic(name) or is_data_set(name)):
        return [path]
    if glob.has_magic(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True)]
        if not matches:
            raise PoolError(f"no file matches {name}: check the pattern given with --pool")
        return _readable(path, matches, f"the pattern {name}")
    snapshot = _cached(name)
    if snapshot is None:
        raise PoolError(
            f"the pool {name} does not exist, and no data set of that name is in the Hugging Face cache; "
            f"fetch it with 'hf download --repo-type dataset {name}', or check the path"
        )
    files = [file for file in snapshot.rglob("*") if file.is_file()]
    train = [file for file in files if "train" in file.relative_to(snapshot).as_posix()]
    return _readable(snapshot, train or files, f"the data set {name}")


def _readable(folder: Path, files: Sequence[Path], what: str) -> list[Path]:
    """Those of the files that a pool may be, sorted."""
    kept = [file for file in sorted(files) if any(suffix in KINDS for suffix in file.suffixes)]
    if not kept:
        raise PoolError(f"{what} holds no {', '.join(KINDS)} files")
    return kept


def _cached(name: str) -> Path | None:
    """The latest snapshot of a data set in the cache of huggingface_hub."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = list((cache / f"datasets--{name.replace('/', '--')}" / "snapshots").glob("*"))
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)
