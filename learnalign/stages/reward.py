"""Stage 3: every response is judged against its prompt's answer; one Parquet part a part of rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import durable
from learnalign.errors import RewardError
from learnalign.pool.rows import row_reader
from learnalign.progress import Progress
from learnalign.rewards import Prompt, Verdict, is_function, make_judge, needs_rows, source_digest
from learnalign.rundir import RunDir
from learnalign.stages import Outcome

NAME = "reward"
PRODUCTS = ("rewards",)
COSTLY = False
IMPORTED = "imported"
"""The verifier that judges nothing: rewards stand in the rollouts already."""


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
    if config.verifier == IMPORTED and not run.record("rollout").get("imported"):
        raise RewardError(f"reward.verifier is imported, but the responses in {run.path} were sampled: name another")
    if config.verifier == "code":
        found["reward.sandbox_url"] = config.sandbox_url
    if needs_rows(config.verifier):
        found["pool file"] = run.record("pool")["inputs"]["pool file"]
    if is_function(config.verifier):
        found["reward function"] = source_digest(config.verifier)
    if is_function(config.verifier) or config.verifier == IMPORTED:
        found["reward.threshold"] = config.threshold
    return found


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Judge the parts that are not judged yet."""
    parts = sorted((run.path / "rollouts").glob("part-*.parquet"))
    total, notes = judge_parts(run, parts, progress)
    return Outcome(total, notes=[*notes, *_notes(run)])


def judge_parts(run: RunDir, parts: Sequence[Path], progress: Progress) -> tuple[int, list[str]]:
    """Write the verdicts of the parts that have none; all the responses there are, and what the judge has to say."""
    folder = run.path / "rewards"
    folder.mkdir(exist_ok=True)
    counts = [pq.read_metadata(part).num_rows for part in parts]
    todo = [k for k, part in enumerate(parts) if not (folder / part.name).exists()]
    total = sum(counts)
    done = total - sum(counts[k] for k in todo)
    with _judging(run) as judging, progress.track(NAME, total, "responses", done=done) as advance:
        for k in todo:
            rows = pq.read_table(parts[k], columns=judging.columns)
            verdicts = judging.judge(rows)
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
        return total, judging.notes() if todo else []


class _Judging(NamedTuple):
    """How a part of rollouts becomes verdicts."""

    columns: list[str]
    judge: Callable[[pa.Table], list[Verdict]]
    notes: Callable[[], list[str]]


@contextmanager
def _judging(run: RunDir) -> Iterator[_Judging]:
    """Verdicts from the verifier that is configured, or as they were imported."""
    config = run.config.reward
    if config.verifier == IMPORTED:
        columns = ["prompt_id", "response", "reward", "correct"]
        yield _Judging(columns, lambda rows: _imported(rows, config.threshold), list)
        return
    answers, prompts = _pool(run)
    with make_judge(
        config.verifier,
        workers=config.workers,
        timeout_seconds=config.timeout_seconds,
        memory_mb=config.memory_mb,
        threshold=config.threshold,
        sandbox_url=config.sandbox_url,
        weak_sandbox=config.weak_sandbox,
    ) as judge:

        def verdicts(rows: pa.Table) -> list[Verdict]:
            ids = rows["prompt_id"].to_pylist()
            return judge.judge(rows["text"].to_pylist(), [answers[i] for i in ids], prompts(ids) if prompts else None)

        yield _Judging(["prompt_id", "response", "text"], verdicts, judge.notes)


def _imported(rows: pa.Table, threshold: float) -> list[Verdict]:
    """Verdicts as they were logged; where only rewards were, correct from `threshold` on."""
    found = []
    for reward, correct in zip(rows["reward"].to_pylist(), rows["correct"].to_pylist(), strict=True):
        known = reward >= threshold if correct is None else correct
        found.append(Verdict(known, reward, "imported" if known else "wrong"))
    return found


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
