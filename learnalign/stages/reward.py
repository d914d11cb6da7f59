"""Stage 3: every response is judged against its prompt's answer; one Parquet part a part of rollouts."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import durable
from learnalign.progress import Progress
from learnalign.rewards import make_judge
from learnalign.rundir import RunDir
from learnalign.stages import Outcome

NAME = "reward"
PRODUCTS = ("rewards",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Responses, answers and the verifier."""
    config = run.config.reward
    return {
        "pool": run.output("pool", "pool.parquet"),
        "rollouts": run.output("rollout", "rollouts"),
        "reward.verifier": config.verifier,
        "reward.timeout_seconds": config.timeout_seconds,
        "reward.memory_mb": config.memory_mb,
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Judge the parts that are not judged yet."""
    folder = run.path / "rewards"
    folder.mkdir(exist_ok=True)
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "answer"])
    answers = dict(zip(pool["prompt_id"].to_pylist(), pool["answer"].to_pylist(), strict=True))
    parts = sorted((run.path / "rollouts").glob("part-*.parquet"))
    counts = [pq.read_metadata(part).num_rows for part in parts]
    todo = [k for k, part in enumerate(parts) if not (folder / part.name).exists()]
    config = run.config.reward
    total = sum(counts)
    with (
        make_judge(
            config.verifier,
            workers=config.workers,
            timeout_seconds=config.timeout_seconds,
            memory_mb=config.memory_mb,
        ) as judge,
        progress.track(NAME, total, "responses", done=total - sum(counts[k] for k in todo)) as advance,
    ):
        for k in todo:
            rows = pq.read_table(parts[k], columns=["prompt_id", "response", "text"])
            prompt_ids = rows["prompt_id"].to_pylist()
            verdicts = judge.judge(rows["text"].to_pylist(), [answers[i] for i in prompt_ids])
            table = pa.table(
                {
                    "prompt_id": rows["prompt_id"],
                    "response": rows["response"],
                    "correct": pa.array([v.correct for v in verdicts], pa.bool_()),
                    "reward": pa.array([v.reward for v in verdicts], pa.float64()),
                    "how": pa.array([v.how for v in verdicts], pa.string()),
                }
            )
            durable.write_parquet(folder / parts[k].name, table)
            advance(len(verdicts))
    return Outcome(total, notes=_notes(run))


def _notes(run: RunDir) -> list[str]:
    """Verdicts that a person should know of: verifiers that hung or crashed."""
    how = pa.concat_tables(
        pq.read_table(part, columns=["how"]) for part in sorted((run.path / "rewards").glob("part-*.parquet"))
    )
    counts = {row["values"]: row["counts"] for row in how["how"].value_counts().to_pylist()}
    return [
        f"{counts[kind]:,} responses judged wrong because the verifier ended in a {kind}"
        for kind in ("timeout", "crash")
        if counts.get(kind)
    ]
