"""Reads rollouts that were logged elsewhere: files and folders to responses (see `record` for what a row may be).

Log only what the policy of today, or one near it, has sampled: sketches take the responses for its own. In a folder,
files that hold no responses are passed over and named; a file that was named itself has to be a log. This module
knows no tokenizer and no pool (see `importing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from learnalign.errors import LogError, PoolError
from learnalign.logs.record import Chosen, Layout, Logged, added_up, logged
from learnalign.pool.records import KINDS, RecordFile, open_records, read_records


def read_logs(
    paths: Iterable[str | Path],
    reward_column: str = "",
    correct_column: str = "",
    threshold: float = 1.0,
    notes: list[str] | None = None,
) -> Iterator[Logged]:
    """Every response in the files and folders. Raises `LogError`.

    reward_column, correct_column: see `Chosen`. threshold: the reward.threshold that a named `correct_column` is held
    against where it holds no verdicts. notes: takes what a person should know of how the files were read.
    """
    chosen = Chosen.of(reward_column, correct_column, threshold)
    said: dict[str, None] = {}
    found = False
    for path, named in _files(paths):
        file, problem = _log(path, named)
        if file is None:
            said[f"{path.name} is passed over: {problem}"] = None
            continue
        found, layout = True, Layout.of(())
        for place, record in read_records(file):
            if (names := tuple(record)) != layout.names:
                layout = Layout.of(names)
            try:
                yield logged(record, layout, chosen)
                if chosen.rewards or layout.trl:
                    said |= dict.fromkeys(added_up(record, layout, chosen))
            except ValueError as error:
                raise LogError(f"{path}: {file.place(place)}: {error}") from error
    if said and not found:
        raise LogError(f"the logs hold no responses: {next(iter(said))}")
    if notes is not None:
        notes += said


def _log(path: Path, named: bool) -> tuple[RecordFile | None, str]:
    """The opened file, or None and why it is no log; for a `named` one whatever it is."""
    if named:
        return open_records(path), ""
    try:
        file = open_records(path)
        first = next(iter(read_records(file)), None)
    except PoolError as error:
        return None, str(error)
    if first is not None and not Layout.of(tuple(first[1])).is_log:
        return None, f"it has no prompt and no response, only {', '.join(first[1]) or 'nothing'}"
    return file, ""


def _files(paths: Iterable[str | Path]) -> list[tuple[Path, bool]]:
    """The files themselves and whether they were named, steps in the order of their numbers."""
    found: list[tuple[Path, bool]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise LogError(f"there is no log {path}")
        if not path.is_dir():
            found.append((path, True))
            continue
        inside = [p for p in path.iterdir() if p.is_file() and any(suffix in KINDS for suffix in p.suffixes)]
        if not inside:
            raise LogError(f"the folder {path} holds no .jsonl, .json or .parquet files")
        ordered = sorted(inside, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
        found += [(p, False) for p in ordered]
    return found
