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
from learnalign.pool.share import split_share

Paths = str | Path | Sequence[str | Path]
DATA_SET = re.compile(r"[\w.-]+/[\w.-]+")
TRAIN = re.compile(r"train([-_.0-9]|$)")
"""How a file of the training split begins."""


def pool_files(paths: Paths) -> list[RecordFile]:
    """The files of a pool, those of a folder or glob in the order of their names. Raises `PoolError`."""
    return [file for file, _ in pool_shares(paths)]


def pool_shares(paths: Paths) -> list[tuple[RecordFile, str]]:
    """The files of a pool, and which of its rows are taken of each (see `share`). Raises `PoolError`."""
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    if not named or not str(named[0]):
        raise PoolError("no pool given: name a JSONL, JSON or Parquet file with --pool")
    found = [one for name in named for one in _with_share(str(name))]
    seen: set[Path] = set()
    for file, _ in found:
        if (real := file.resolve()) in seen:  # also by another name
            raise PoolError(f"the pool {file} is named twice: name every file once")
        seen.add(real)
    return [(open_records(file), share) for file, share in found]


def _with_share(name: str) -> list[tuple[Path, str]]:
    name, share = split_share(name)
    files = _expand(name)
    if share and len(files) > 1:
        raise PoolError(f"{name} is {len(files)} files, and #{share} is of one: name each with its own")
    return [(file, share) for file in files]


def distinct_names(files: Sequence[Path]) -> list[str]:
    """A short name for every file: its stem, else its path within the folder that all have in common."""
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([file.absolute().parent for file in files]))
    names = [file.absolute().relative_to(common).as_posix() for file in files]
    short = [name.removesuffix("".join(file.suffixes)) for name, file in zip(names, files, strict=True)]
    return short if len(set(short)) == len(short) else names


def is_data_set(name: str) -> bool:
    """Whether a name can only be that of a data set of the hub: `owner/name`, and no such path."""
    name = name.rpartition("#")[0] or name
    kinds = (*KINDS, ".gz")
    return bool(DATA_SET.fullmatch(name)) and not Path(name).exists() and Path(name).suffix not in kinds


def _expand(name: str) -> list[Path]:
    """The files that one name stands for."""
    path = Path(name)
    if path.is_dir():
        return _readable([file for file in path.iterdir() if file.is_file()], f"the folder {path}")
    if path.exists() or not (glob.has_magic(name) or is_data_set(name)):
        return [path]
    if glob.has_magic(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True)]
        if not matches:
            raise PoolError(f"no file matches {name}: check the pattern given with --pool")
        return _readable(matches, f"the pattern {name}")
    snapshot = _cached(name)
    if snapshot is None:
        raise PoolError(
            f"the pool {name} does not exist, and no data set of that name is in the Hugging Face cache; "
            f"fetch it with 'hf download --repo-type dataset {name}', or check the path"
        )
    return _training_split(name, snapshot)


def _training_split(name: str, snapshot: Path) -> list[Path]:
    """The files of a data set's training split. Raises `PoolError` where there is none, or one a configuration."""
    files = _readable([file for file in snapshot.rglob("*") if file.is_file()], f"the data set {name}")
    train = [file for file in files if TRAIN.match(file.name) or file.parent.name == "train"]
    folders = sorted({str(file.parent) for file in train})
    if len(folders) == 1:
        return train
    if folders:
        raise PoolError(
            f"the data set {name} has several configurations: name a folder with --pool: {', '.join(folders)}"
        )
    listed = ", ".join(str(file.relative_to(snapshot)) for file in files[:5])
    raise PoolError(f"the data set {name} has no training split ({listed}): name its files in {snapshot} with --pool")


def _readable(files: Sequence[Path], what: str) -> list[Path]:
    """Those of the files that a pool may be, sorted."""
    kept = [file for file in sorted(files) if any(suffix in KINDS for suffix in file.suffixes)]
    if not kept:
        raise PoolError(f"{what} holds no {', '.join(KINDS)} files")
    return kept


def _cached(name: str) -> Path | None:
    """The snapshot of a data set that the cache of huggingface_hub has for its main revision, or its only one."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"datasets--{name.replace('/', '--')}"
    main = folder / "refs" / "main"
    snapshots = sorted((folder / "snapshots").glob("*"))
    if main.is_file():
        snapshots = [folder / "snapshots" / main.read_text().strip()]
    if len(snapshots) > 1:
        raise PoolError(
            f"the data set {name} is cached in {len(snapshots)} revisions: name one with --pool, in {folder}"
        )
    return snapshots[0] if snapshots and snapshots[0].is_dir() else None
