"""Stage 5: success rates and sketches become one table of scores, a row a prompt, in the pool's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.errors import RunError, StoreError
from learnalign.progress import Progress
from learnalign.rollout.parts import read_parts, rows_of
from learnalign.runs.directory import RunDir, open_run
from learnalign.runs.stages import Outcome, graded_input
from learnalign.schemas import SCORES
from learnalign.scoring import mean_direction, score_against, score_shards
from learnalign.scoring.learnability import RewardMoments, learnability_of_counts
from learnalign.store import SketchReader

NAME = "score"
PRODUCTS = ("scores.parquet",)
COSTLY = False
PARTS = 1024
"""Files of responses that are counted together."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Everything measured so far."""
    return {
        "pool": run.output("pool", "pool.parquet"),
        "rollouts": run.output("rollout", "rollouts"),
        "rewards": run.output("reward", "rewards"),
        "sketches": run.output("sketch", "sketches"),
        **_target_input(run),
        **graded_input(run),
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """score_i = z_i . mean_j z_j over all sampled prompts, with z_i = p_i (1 - p_i) phi_i / |phi_i|.

    With a target set, its mean direction takes the place of mean_j z_j (see `learnalign.scoring.target`).
    """
    pool = pq.read_table(run.path / "pool.parquet", columns=["row", "prompt_id", "problem", "source"])
    row_of = dict(zip(pool["prompt_id"].to_pylist(), range(pool.num_rows), strict=True))
    sampled, correct, length, moments = _groups(run, row_of)
    success = np.divide(correct, sampled, out=np.full(len(sampled), np.nan), where=sampled > 0)
    graded = run.config.reward.graded
    learnability = _spread(sampled, moments) if graded else _learnability(sampled, correct, success)
    reader = _complete(run.path)
    rows = np.fromiter(map(row_of.__getitem__, reader.prompt_ids), np.int64, reader.rows)
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
    if graded:
        state, reason = _graded_states(state, reason, learnability)
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
    if graded:
        notes.append("reward.graded: learnability is the variance of a prompt's rewards, since none means correct")
    measure = "variance of rewards" if graded else "p (1 - p)"
    return Outcome(pool.num_rows, notes, {"learnability": measure})


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


def _groups(run: RunDir, row_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, RewardMoments]:
    """Of every prompt: responses, correct ones, their mean length in tokens, NaN where there are none, and rewards.

    Rewards are read where they are graded.
    """
    size = len(row_of)
    moments = RewardMoments(size)
    read = ["correct", *(["reward"] if run.config.reward.graded else [])]
    sampled, correct, tokens = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size)
    parts = sorted((run.path / "rollouts").glob("part-*.parquet"))
    for some in (parts[start : start + PARTS] for start in range(0, len(parts), PARTS)):
        rollouts = read_parts(some, ["prompt_id", "length"])
        rewards = read_parts([run.path / "rewards" / part.name for part in some], read)
        row = rows_of(rollouts["prompt_id"], row_of)
        if row is None or len(rewards) != len(rollouts):
            raise RunError(
                f"the responses of {run.path / 'rollouts'} are not those of the pool and of {run.path / 'rewards'}: "
                "delete both folders and run the same command again"
            )
        sampled += np.bincount(row, minlength=size)
        correct += np.bincount(row[rewards["correct"].to_numpy()], minlength=size)
        if "reward" in read:
            moments.add(row, rewards["reward"].to_numpy())
        tokens += np.bincount(row, rollouts["length"].to_numpy(), minlength=size)
    length = np.divide(tokens, sampled, out=np.full(size, np.nan), where=sampled > 0)
    return sampled, correct, length, moments


def _learnability(sampled: np.ndarray, correct: np.ndarray, success: np.ndarray) -> np.ndarray:
    """p (1 - p) where all prompts have equally many responses, else its estimate without bias: bias favors many."""
    learnability: np.ndarray = success * (1 - success)
    if len(set(sampled[sampled > 0].tolist())) > 1:
        learnability = np.where(sampled == 1, 0.0, learnability_of_counts(sampled, correct))
    return learnability


def _spread(sampled: np.ndarray, moments: RewardMoments) -> np.ndarray:
    """Variance of every prompt's rewards; without bias where prompts have different numbers of responses."""
    return moments.variance(unbiased=len(set(sampled[sampled > 0].tolist())) > 1)


def _graded_states(state: list[str], reason: list[str], spread: np.ndarray) -> tuple[list[str], list[str]]:
    """The states of graded rewards: learnable where they differ, whatever of them counts as correct."""
    for row, value in enumerate(spread.tolist()):
        if state[row] in ("mastered", "unsolved") and value > 0:
            state[row] = "learnable"
        elif state[row] == "learnable" and value == 0:
            state[row], reason[row] = "excluded", "gradient is zero: all rewards are equal"
    return state, reason


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
