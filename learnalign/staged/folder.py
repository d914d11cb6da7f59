"""The state of a staged selection on the disk.

    stage-0003/state.json       stage, facts, last training step counted, digest of the pool's ids
    stage-0003/prompts.parquet  a row a prompt: discounted correct and responses, visits, agreement (null where not
                                known), rank (null where not picked)
    stage-0003/shared.npy       what the gradients have in common
    stage-0003/observed.jsonl   verdicts that have come since, a line each call of `observe`

A folder appears whole (written as .partial, flushed, renamed), then the one before it goes; `observed.jsonl` is
appended to and flushed, and a torn last line is left out. So a kill costs at most the stage or the line in progress.
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

from learnalign import durable
from learnalign.errors import RunError
from learnalign.rows import Integers
from learnalign.staged.agreement import Shared
from learnalign.staged.history import Doubles, History
from learnalign.staged.state import Facts, State


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
        stages = [int(match[1]) for path in self.path.iterdir() if (match := re.fullmatch(r"stage-(\d+)", path.name))]
        if not stages:
            return None
        folder = self._stage(max(stages))
        try:
            about = json.loads((folder / "state.json").read_text())
            if about["pool"] != self._digest:
                raise RunError(f"{self.path} holds the stages of another pool: name another directory")
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
        folder = self._stage(state.stage)
        partial = folder.with_name(folder.name + durable.PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        about = {
            "stage": state.stage,
            "counted": state.counted,
            "gradients": state.shared.gradients,
            "pool": self._digest,
            "facts": state.facts._asdict(),
        }
        durable.write_json(partial / "state.json", about)
        durable.write_parquet(partial / "prompts.parquet", _prompts(state))
        durable.write_bytes(partial / "shared.npy", _npy(state.shared.total))
        durable.publish(partial, folder)
        for older in self.path.glob("stage-*"):
            if older != folder:
                shutil.rmtree(older)

    def noted(self, stage: int) -> bool:
        """Whether a whole line of verdicts came after `stage`."""
        return bool(_lines(self._stage(stage) / "observed.jsonl"))

    def note(self, stage: int, prompts: Integers, correct: npt.NDArray[np.bool_], step: int | None) -> None:
        """Append verdicts that came after `stage`, of a numbered step of the training or not."""
        if stage == 0:
            raise RunError("nothing can be observed before the first stage: call update first")
        numbered = {} if step is None else {"step": step}
        line = json.dumps({**numbered, "prompts": prompts.tolist(), "correct": correct.astype(int).tolist()})
        with (self._stage(stage) / "observed.jsonl").open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _stage(self, number: int) -> Path:
        return self.path / f"stage-{number:04d}"


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
    return State(about["stage"], history, agreement, shared, picked, Facts(**about["facts"]), about["counted"])


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
