"""Which rows of a pool file are taken: `file#1000`, `file#30%` or `file#100:200`.

The number sign is what ms-swift writes behind a data set for so many random rows of it; a share of every pool weighs
the pools against each other, and a slice is written as everywhere. Rows keep their numbers, whatever is taken.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learnalign.errors import PoolError
from learnalign.pool.records import RecordFile, row_count

Taken = npt.NDArray[np.bool_]
_COUNT = re.compile(r"(\d+)(%?)")
_SLICE = re.compile(r"(\d*):(\d*)")
SEED = 0
"""Of the random rows: the same file gives the same rows."""


def split_share(name: str) -> tuple[str, str]:
    """What `--pool` names, and which rows of it: `a.jsonl#30%` becomes `a.jsonl` and `30%`. Raises `PoolError`."""
    file, sign, share = name.rpartition("#")
    if not sign or Path(name).exists():
        return name, ""
    if not _COUNT.fullmatch(share) and not _SLICE.fullmatch(share):
        raise PoolError(
            f"the pool {name}: behind # there has to be a number of rows (#1000), a share (#30%) or a slice "
            f"(#100:200), found {share!r}"
        )
    return file, share


def taken_rows(file: RecordFile, share: str) -> Taken | None:
    """[rows of the file] which of them are taken; None for all. Raises `PoolError` for more than there are, or none."""
    if not share:
        return None
    rows = row_count(file)
    taken = np.zeros(rows, np.bool_)
    if match := _SLICE.fullmatch(share):
        first, end = int(match[1] or 0), int(match[2] or rows)
        taken[first:end] = True
    else:
        number, percent = _COUNT.fullmatch(share).groups()  # type: ignore[union-attr]
        count = round(rows * int(number) / 100) if percent else int(number)
        if count > rows:
            raise PoolError(f"{file.path} has {rows:,} rows, and {count:,} of them are asked for (#{share})")
        taken[np.random.default_rng(SEED).choice(rows, count, replace=False)] = True
    if not taken.any():
        raise PoolError(f"{file.path} has {rows:,} rows, of which #{share} takes none")
    return taken
