"""Stage 5: success rates and sketches become one table of scores, a row a prompt, in the pool's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.errors import StoreError
from learnalign.progress import Progress
from learnalign.runs.directory import RunDir, open_run
from learnalign.runs.stages import Outcome
from learnalign.schemas import SCORES
from learnalign.scoring import mean_direction, score_against, score_shards
from learnalign.scoring.learnability import learnability_of_counts
from learnalign.store import SketchReader

NAME = "score"
PRODUCTS = ("scores.parquet",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Everything measured so far."""
    return {
        "pool": run.output("pool", "pool.parquet"),
        "rollouts": run.output("rollout", "rollouts"),
        "rewards": run.output("reward", "rewards"),
        "sketches": run.output("sketch", "sketches"),
        **_target_input(run),
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """score_i = z_i . mean_j z_j over all sampled prompts, with z_i = p_i (1 - p_i) phi_i / |phi_i|.

    With a target set, its mean direction takes the place of mean_j z_j (see `learnalign.scoring.target`).
    """
    pool = pq.read_table(run.path / "pool.parquet", columns=["row", "prompt_id", "problem", "source"])
    row_of = {prompt_id: row for row, prompt_id in enumerate(pool["prompt_id"].to_pylist())}
    sampled, correct, length = _groups(run, row_of, pool.num_rows)
    success = np.divide(correct, sampled, out=np.full(len(sampled), np.nan), where=sampled > 0)
    learnability = _learnability(sampled, correct, success)
    reader = _complete(run.path)
    rows = np.array([row_of[prompt_id] for prompt_id in reader.prompt_ids], dtype=np.int64)
    usable = np.isfinite(reader.norm) & (reader.norm > 0)
    values = np.where(usable, learnability[rows], 0.0)
    if run.config.select.target:
        target = _complete(run.target)
        scored = score_against(reader.shards, values, mean_direction(target.shards))
    else:
        scored = score_shards(
            reader.shards,
            values,
            pool_size=int(np.isfinite(success).sum()),
            scale=reader.scale if reader.dtype == "int8" else None,
            total=reader.total(values),
        )
    score, alignment, norm = np.zeros(len(success)), np.zeros(len(success)), np.full(len(success), np.nan)
    score[rows], alignment[rows], norm[rows] = scored.score, scored.alignment, reader.norm
    state, reason = _states(run, success, rows[~usable], reader.norm[~usable], row_of)
    columns = {
        **{name: pool[name] for name in ("row", "prompt_id", "problem", "source")},
        "responses": sampled,
        "success_rate": success,
        "learnability": learnability,
        "score": score,
        "alignment": alignment,
        "gradient_norm": norm,
        "response_tokens": length,
        "state": state,
        "reason": reason,
    }
    files.write_parquet(run.path / "scores.parquet", pa.table(columns, schema=SCORES))
    lost = state.count("excluded")
    notes = [f"{lost:,} prompts excluded: their gradient is zero or not finite"] if lost else []
    return Outcome(pool.num_rows, notes)


def _target_input(run: RunDir) -> dict[str, Any]:
    """The sketches of the target set, where there is one."""
    if not run.config.select.target:
        return {}
    return {"target sketches": open_run(run.target).output("sketch", "sketches")}


def _complete(directory: Path) -> SketchReader:
    reader = SketchReader(directory / "sketches")
    if not reader.complete:
        raise StoreError(
            f"{directory / 'sketches'} is damaged or unfinished: 'learnalign check {directory}' says where"
        )
    return reader


def _groups(run: RunDir, row_of: dict[str, int], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every prompt: responses, correct ones, and their mean length in tokens, NaN where there are none."""
    sampled, correct, tokens = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    for part in sorted((run.path / "rollouts").glob("part-*.parquet")):
        rollouts = pq.read_table(part, columns=["prompt_id", "length"])
        rewards = pq.read_table(run.path / "rewards" / part.name, columns=["correct"])
        at = [row_of[prompt_id] for prompt_id in rollouts["prompt_id"].to_pylist()]
        np.add.at(sampled, at, 1)
        np.add.at(correct, at, rewards["correct"].to_numpy())
        np.add.at(tokens, at, rollouts["length"].to_numpy())
    return sampled, correct, np.divide(tokens, sampled, out=np.full(size, np.nan), where=sampled > 0)


def _learnability(sampled: np.ndarray, correct: np.ndarray, success: np.ndarray) -> np.ndarray:
    """p (1 - p) where all prompts have equally many responses, else its estimate without bias: bias favors many."""
    learnability: np.ndarray = success * (1 - success)
    if len(set(sampled[sampled > 0].tolist())) > 1:
        learnability = np.where(sampled == 1, 0.0, learnability_of_counts(sampled, correct))
    return learnability


def _states(
    run: RunDir, success: np.ndarray, excluded: np.ndarray, norms: np.ndarray, row_of: dict[str, int]
) -> tuple[list[str], list[str]]:
    """Of every prompt: learnable, mastered, unsolved, dropped, skipped or excluded; reasons of the last three."""
    state = np.select([success == 1, success == 0], ["mastered", "unsolved"], "learnable").tolist()
    reason = [""] * len(state)
    for row, norm in zip(excluded.tolist(), norms.tolist(), strict=True):
        state[row] = "excluded"
        reason[row] = "gradient is not finite" if np.isnan(norm) else "gradient is zero: all rewards are equal"
    dropped = run.path / "rollouts" / "dropped.parquet"  # where rounds kept the most promising prompts only
    for prompt in pq.read_table(dropped).to_pylist() if dropped.exists() else []:
        row = row_of[prompt["prompt_id"]]
        if state[row] == "learnable":
            state[row], reason[row] = "dropped", f"others promised more after {prompt['responses']} responses"
    skipped = pq.read_table(run.path / "rollouts" / "skipped.parquet").to_pylist()
    for prompt in skipped:
        state[row_of[prompt["prompt_id"]]] = "skipped"
        reason[row_of[prompt["prompt_id"]]] = prompt["reason"]
    return state, reason
