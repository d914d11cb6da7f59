"""The state of an online selection on the disk.

    update-0003/state.json       update, facts, last training step counted, digest of the pool's ids
    update-0003/prompts.parquet  a row a prompt: discounted correct and responses, visits, agreement (null where not
                                known), rank (null where not picked)
    update-0003/shared.npy       what the gradients have in common
    update-0003/observed.jsonl   verdicts that have come since, a line each call of `observe`

A folder appears whole (written as .partial, flushed, renamed), then the one before it goes; `observed.jsonl` is
appended to and flushed, and a torn last line is left out. So a kill costs at most the update or the line in progress.
This module decides nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.errors import RunError
from learnalign.online.agreement import Shared
from learnalign.online.history import Doubles, History
from learnalign.online.state import Facts, State
from learnalign.scoring.rows import Integers


class Folder:
    """Where one selector keeps its state. Raises `RunError` for a path that cannot be a directory."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self.path = path
        self._digest = hashlib.sha256("\0".join(ids).encode()).hexdigest()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the directory {path}: {error.strerror}") from error

    def read(self, decay: float) -> State | None:
        """The last state, with what was observed since (see `History.follow`); None where there is none.

        Raises `RunError` for the state of another pool, or one that cannot be read.
        """
        updates = [int(match[1]) for path in self.path.iterdir() if (match := re.fullmatch(r"update-(\d+)", path.name))]
        if not updates:
            return None
        folder = self._update_folder(max(updates))
        try:
            about = json.loads((folder / "state.json").read_text())
            if about["pool"] != self._digest:
                raise RunError(f"{self.path} holds the updates of another pool: name another directory")
            state = _state(folder, about)
            _drop_torn_line(folder / "observed.jsonl")
            for line in _lines(folder / "observed.jsonl"):
                state.history.follow(np.array(line["prompts"], np.int64), line["correct"], decay)
                state = state._replace(counted=max(state.counted, line.get("step", -1)))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise RunError(f"{folder} cannot be read ({error}): delete it to begin anew") from error
        return state

    def write(self, state: State) -> None:
        """Make `state` the last one. Raises `RunError` where the disk refuses."""
        folder = self._update_folder(state.updates)
        partial = folder.with_name(folder.name + files.PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        about = {
            "updates": state.updates,
            "counted": state.counted,
            "gradients": state.shared.gradients,
            "pool": self._digest,
            "facts": state.facts._asdict(),
        }
        files.write_json(partial / "state.json", about)
        files.write_parquet(partial / "prompts.parquet", _prompts(state))
        files.write_bytes(partial / "shared.npy", _npy(state.shared.total))
        shutil.rmtree(folder, ignore_errors=True)  # of this update with later verdicts, where a checkpoint is restored
        files.publish(partial, folder)
        for other in self.path.glob("update-*"):
            if other != folder:
                shutil.rmtree(other)

    def noted(self, update: int) -> bool:
        """Whether a whole line of verdicts came after `update`."""
        return bool(_lines(self._update_folder(update) / "observed.jsonl"))

    def note(self, update: int, prompts: Integers, correct: npt.NDArray[np.bool_], step: int | None) -> None:
        """Append verdicts that came after `update`, of a numbered step of the training or not."""
        if update == 0:
            raise RunError("nothing can be observed before the first update: call update first")
        numbered = {} if step is None else {"step": step}
        line = json.dumps({**numbered, "prompts": prompts.tolist(), "correct": correct.astype(int).tolist()})
        with (self._update_folder(update) / "observed.jsonl").open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _update_folder(self, number: int) -> Path:
        return self.path / f"update-{number:04d}"


def _state(folder: Path, about: dict[str, Any]) -> State:
    prompts = pq.read_table(folder / "prompts.parquet")
    history = History(prompts.num_rows)
    for name in ("correct", "responses", "visits"):
        setattr(history, name, prompts[name].to_numpy().copy())
    agreement = prompts["agreement"].to_numpy().copy()  # float64, NaN where null
    rank = prompts["rank"].to_numpy()
    picked = np.flatnonzero(~np.isnan(rank))
    picked = picked[np.argsort(rank[picked])]
    shared = Shared(np.load(folder / "shared.npy", allow_pickle=False), about["gradients"])
    return State(about["updates"], history, agreement, shared, picked, Facts(**about["facts"]), about["counted"])


def _prompts(state: State) -> pa.Table:
    rank: list[int | None] = [None] * len(state.agreement)
    for place, prompt in enumerate(state.picked.tolist()):
        rank[prompt] = place
    return pa.table(
        {
            "correct": state.history.correct,
            "responses": state.history.responses,
            "visits": state.history.visits,
            "agreement": pa.array(state.agreement, from_pandas=True),
            "rank": pa.array(rank, pa.int64()),
        }
    )


def _npy(array: Doubles) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of the last line, so that the next one does not continue it."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
