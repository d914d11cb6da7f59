"""Stage 3: every response is judged against its prompt's answer; one Parquet part a part of rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import durable
from learnalign.pool.rows import row_reader
from learnalign.progress import Progress
from learnalign.rewards import Prompt, is_function, make_judge, needs_rows, source_digest
from learnalign.rundir import RunDir
from learnalign.stages import Outcome

NAME = "reward"
PRODUCTS = ("rewards",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Responses, answers and the verifier."""
    config = run.config.reward
    found: dict[str, Any] = {
        "pool": run.output("pool", "pool.parquet"),
        "rollouts": run.output("rollout", "rollouts"),
        "reward.verifier": config.verifier,
        "reward.timeout_seconds": config.timeout_seconds,
        "reward.memory_mb": config.memory_mb,
    }
    if needs_rows(config.verifier):
        found["pool file"] = run.record("pool")["inputs"]["pool file"]
    if is_function(config.verifier):
        found["reward function"] = source_digest(config.verifier)
        found["reward.threshold"] = config.threshold
    return found


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Judge the parts that are not judged yet."""
    folder = run.path / "rewards"
    folder.mkdir(exist_ok=True)
    answers, prompts = _pool(run)
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
            threshold=config.threshold,
            sandbox_url=config.sandbox_url,
            weak_sandbox=config.weak_sandbox,
        ) as judge,
        progress.track(NAME, total, "responses", done=total - sum(counts[k] for k in todo)) as advance,
    ):
        for k in todo:
            rows = pq.read_table(parts[k], columns=["prompt_id", "response", "text"])
            prompt_ids = rows["prompt_id"].to_pylist()
            verdicts = judge.judge(
                rows["text"].to_pylist(), [answers[i] for i in prompt_ids], prompts(prompt_ids) if prompts else None
            )
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
        notes = judge.notes() if todo else []
    return Outcome(total, notes=[*notes, *_notes(run)])


def _pool(run: RunDir) -> tuple[dict[str, str], Callable[[Sequence[str]], list[Prompt]] | None]:
    """Answers by prompt id, and for verifiers that look at it the whole prompt by prompt id."""
    needed = needs_rows(run.config.reward.verifier)
    columns = ["prompt_id", "answer", *(["row", "problem", "messages", "source"] if needed else [])]
    pool = pq.read_table(run.path / "pool.parquet", columns=columns)
    ids = pool["prompt_id"].to_pylist()
    answers = dict(zip(ids, pool["answer"].to_pylist(), strict=True))
    if not needed:
        return answers, None
    position = {prompt_id: k for k, prompt_id in enumerate(ids)}
    rows_of = row_reader(run.config.pool.path)

    def prompts(wanted: Sequence[str]) -> list[Prompt]:
        distinct = list(dict.fromkeys(wanted))
        some = pool.take([position[prompt_id] for prompt_id in distinct]).to_pylist()
        own = rows_of([prompt["row"] for prompt in some])
        made = {
            p["prompt_id"]: Prompt(
                p["prompt_id"], p["problem"], json.loads(p["messages"]) if p["messages"] else None, p["source"], row
            )
            for p, row in zip(some, own, strict=True)
        }
        return [made[prompt_id] for prompt_id in wanted]

    return answers, prompts


def _notes(run: RunDir) -> list[str]:
    """Verdicts that a person should know of: verifiers that hung or crashed, functions that gave no reward."""
    how = pa.concat_tables(
        pq.read_table(part, columns=["how"]) for part in sorted((run.path / "rewards").glob("part-*.parquet"))
    )
    counts = {row["values"]: row["counts"] for row in how["how"].value_counts().to_pylist()}
    because = {
        "timeout": "the verifier ended in a timeout",
        "crash": "the verifier ended in a crash",
        "no reward": "the reward function gave None",
    }
    return [
        f"{counts[kind]:,} responses judged wrong because {reason}"
        for kind, reason in because.items()
        if counts.get(kind)
    ]
