"""Histories: the success rates that a prompt had on its visits during an earlier training run.

Two shapes: a JSON object of prompt ids (or indices) and lists, `{"17": [0.0, 0.125, ...]}`, as 1-shot RLVR publishes
it; or JSON Lines or Parquet with one row a prompt, an id column and a list column called `history`,
`success_rates` or `acc`. `learnalign import` writes the first shape. This module does not rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learnalign.errors import PoolError
from learnalign.pool.columns import ID, id_text
from learnalign.pool.records import open_records, read_records

LISTS = ("history", "success_rates", "acc")


def read_histories(path: str | Path) -> dict[str, list[float]]:
    """Prompt id to success rates in the order of the visits. Raises `PoolError` that names what is unfit."""
    histories: dict[str, list[float]] = {}
    for key, rates in _pairs(Path(path)):
        if not isinstance(rates, list) or not all(_is_rate(rate) for rate in rates):
            raise PoolError(f"{path}: the history of prompt {key!r} must be a list of success rates from 0 to 1")
        if key in histories:
            raise PoolError(f"{path}: prompt {key!r} has two histories; keep one")
        histories[key] = [float(rate) for rate in rates]
    if not histories:
        raise PoolError(f"{path} holds no histories")
    return histories


def _pairs(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".json":
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PoolError(f"cannot read the histories {path}: {error.strerror}") from error
        except ValueError as error:
            raise PoolError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(document, dict):
            raise PoolError(f'{path} must hold one JSON object of ids and lists, such as {{"17": [0.0, 0.125]}}')
        yield from document.items()
        return
    file = open_records(path)
    for place, record in read_records(file):
        names = [next((name for name in wanted if name in record), "") for wanted in (ID, LISTS)]
        if not all(names):
            raise PoolError(
                f"{path}: {file.place(place)} needs an id ({', '.join(ID)}) and a list ({', '.join(LISTS)}), "
                f"found {', '.join(record)}"
            )
        try:
            yield id_text(record[names[0]]), record[names[1]]
        except ValueError as error:
            raise PoolError(f"{path}: {file.place(place)}: the id {error}") from error


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
