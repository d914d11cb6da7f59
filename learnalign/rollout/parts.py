"""The Parquet parts of a run's rollouts: their names, their rounds, and prompts put together over the rounds.

    part-000000.parquet, part-000001.parquet, ...        round 0
    part-r1-000000.parquet, ...                          round 1, and so on

A part holds whole prompts of one round, and every round visits its prompts in the order of the first, so that the
rounds are merged by reading them side by side. The verdicts of a part are in a part of the same name. This module
knows no columns beside `prompt_id` and decides nothing about rounds (see `allocation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learnalign.errors import RunError


def part_name(number: int, batch: int) -> str:
    """File name of a batch of round `number`."""
    return f"part-{batch:06d}.parquet" if number == 0 else f"part-r{number}-{batch:06d}.parquet"


def parts_of(folder: Path, number: int) -> list[Path]:
    """The parts of round `number`, in order."""
    return sorted(folder.glob("part-[0-9]*.parquet" if number == 0 else f"part-r{number}-*.parquet"))


def all_parts(folder: Path) -> list[Path]:
    """The parts of all rounds, earlier rounds first."""
    found: list[Path] = []
    for number in count():
        parts = parts_of(folder, number)
        if not parts:
            return found
        found += parts
    return found


def read_parts(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Columns of many small files, one after the other. (A dataset takes twice as long to open them.)"""
    return pa.concat_tables(pq.ParquetFile(path).read(columns=columns, use_threads=False) for path in paths)


def rows_of(prompt_ids: pa.ChunkedArray, row_of: Mapping[str, int]) -> npt.NDArray[np.int64] | None:
    """[R] the number of every response's prompt, looked up once for those that stand together; None if one has none."""
    runs = pc.run_end_encode(prompt_ids.combine_chunks())
    rows = list(map(row_of.get, runs.values.to_pylist()))
    return None if None in rows else np.repeat(np.array(rows, np.int64), np.diff(runs.run_ends, prepend=0))


def groups(folders: Sequence[Path], columns: Sequence[Sequence[str]]) -> Iterator[pa.Table]:
    """One table a prompt: its rows of all rounds, earlier rounds first, in the order of the first round.

    folders: of rollouts, and others with parts of the same names and rows; columns: what is read from each, the
    first with `prompt_id`. Raises `RunError` where a later round visits prompts in another order.
    """
    streams = []
    for number in count():
        parts = parts_of(folders[0], number)
        if not parts:
            break
        streams.append(_prompts(parts, folders, columns))
    if not streams:
        return
    first, later = streams[0], streams[1:]
    heads = [next(stream, None) for stream in later]
    for prompt_id, rows in first:
        tables = [rows]
        for k, head in enumerate(heads):
            if head and head[0] == prompt_id:
                tables.append(head[1])
                heads[k] = next(later[k], None)
        yield pa.concat_tables(tables)
    if left := next((head for head in heads if head), None):
        raise RunError(
            f"{folders[0]}: the parts of a later round hold prompt {left[0]!r} out of order: "
            "they are not of this run; delete the folder to sample again"
        )


def _prompts(
    parts: list[Path], folders: Sequence[Path], columns: Sequence[Sequence[str]]
) -> Iterator[tuple[str, pa.Table]]:
    """(prompt_id, its rows) of one round. Rows of one prompt stand together in a part."""
    for part in parts:
        table = pq.read_table(part, columns=list(columns[0]))
        for folder, names in zip(folders[1:], columns[1:], strict=True):
            other = pq.read_table(folder / part.name, columns=list(names))
            for name in names:
                table = table.append_column(name, other[name])
        prompt_ids = table["prompt_id"].to_numpy()
        starts = np.flatnonzero(np.r_[True, prompt_ids[1:] != prompt_ids[:-1], True])
        for first, last in pairwise(starts):
            yield str(prompt_ids[first]), table.slice(first, last - first)
