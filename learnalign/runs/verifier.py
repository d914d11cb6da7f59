"""A run's verifier, ready to judge responses to the run's prompts: what its stages share that need verdicts.

A verifier takes gold answers, and some of them whole rows of the pool; this module finds both by prompt id. It does
not judge (see `rewards`), and writes no files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learnalign.config import RewardConfig
from learnalign.errors import RewardError
from learnalign.pool.rows import row_reader
from learnalign.rewards import Prompt, Verdict, Verifier, is_function, make_verifier, needs_rows, source_digest
from learnalign.rewards.by_source import BySourceVerifier, without_verifier
from learnalign.runs.directory import RunDir
from learnalign.schemas import VERDICTS

IMPORTED = "imported"
"""The verifier that judges nothing: rewards stand in the rollouts already."""


class OpenVerifier(NamedTuple):
    """An open verifier."""

    verdicts: Callable[[Sequence[str], Sequence[str]], list[Verdict]]
    """Of responses as text, given the ids of their prompts."""
    notes: Callable[[], list[str]]
    """What a person should know of how the verifier works here."""


def verifier_inputs(run: RunDir) -> dict[str, Any]:
    """The named values beside the pool that determine verdicts: inputs of every stage that needs them."""
    config = run.config.reward
    functions = [name for name in config.verifiers if is_function(name)]
    found: dict[str, Any] = {
        "reward.verifier": config.verifier,
        "reward.timeout_seconds": config.timeout_seconds,
        "reward.memory_mb": config.memory_mb,
    }
    if config.by_source:
        found["reward.verifier"] = json.dumps(config.by_source, sort_keys=True, ensure_ascii=False)
    if "code" in config.verifiers:
        found["reward.sandbox_url"] = config.sandbox_url
    if any(map(needs_rows, config.verifiers)):
        found["pool file"] = run.record("pool")["inputs"]["pool file"]
    if functions:
        found["reward function"] = " ".join(map(source_digest, functions))
    if functions or IMPORTED in config.verifiers:
        found["reward.threshold"] = config.threshold
    if config.graded:
        found["reward.graded"] = "true"
    return found


def verdict_table(rollouts: pa.Table, verdicts: Sequence[Verdict]) -> pa.Table:
    """Verdicts of the responses in a part of rollouts, with the columns `VERDICTS`."""
    columns = [
        rollouts["prompt_id"].combine_chunks(),
        rollouts["response"].combine_chunks(),
        [verdict.correct for verdict in verdicts],
        [verdict.reward for verdict in verdicts],
        [verdict.how for verdict in verdicts],
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, VERDICTS.types, strict=True)]
    return pa.table(arrays, schema=VERDICTS)


@contextmanager
def open_verifier(run: RunDir) -> Iterator[OpenVerifier]:
    """The verifier that is configured; leaving ends its processes. Raises `RewardError` or `PoolError`."""
    answers, prompts = _pool(run)
    with _verifier(run.config.reward) as judge:

        def verdicts(texts: Sequence[str], ids: Sequence[str]) -> list[Verdict]:
            return judge.judge(texts, [answers[i] for i in ids], prompts(ids) if prompts else None)

        yield OpenVerifier(verdicts, judge.notes)


def _verifier(config: RewardConfig) -> Verifier:
    """The verifier, or those of all sources in one."""
    made = {
        name: make_verifier(
            name,
            workers=config.workers,
            timeout_seconds=config.timeout_seconds,
            memory_mb=config.memory_mb,
            threshold=config.threshold,
            sandbox_url=config.sandbox_url,
            weak_sandbox=config.weak_sandbox,
        )
        for name in config.verifiers
    }
    return BySourceVerifier(made, config.by_source) if config.by_source else made[config.verifier]


def check_sources(run: RunDir) -> None:
    """Raise `RewardError` where reward.by_source leaves out a source of the pool, or one lacks answers.

    So that it is said before anything is sampled.
    """
    config = run.config.reward
    if not config.by_source:
        return
    pool = pq.read_table(run.path / "pool.parquet", columns=["source", "answer"])
    for source in pool["source"].unique().to_pylist():
        if source not in config.by_source:
            raise RewardError(without_verifier(source, config.by_source))
        if not is_function(config.by_source[source]):
            own = pool.filter(pc.equal(pool["source"], source))["answer"]
            lacking = pc.sum(pc.equal(own, "")).as_py()
            if lacking:
                raise RewardError(
                    f"{lacking:,} prompts of the source {source!r} have no answer, which the verifier "
                    f"{config.by_source[source]} needs: remove them, or name a function in reward.by_source"
                )


def _pool(run: RunDir) -> tuple[dict[str, str], Callable[[Sequence[str]], list[Prompt]] | None]:
    """Answers by prompt id, and for verifiers that look at it the whole prompt by prompt id."""
    config = run.config.reward
    rows_needed = any(map(needs_rows, config.verifiers))
    needed = rows_needed or bool(config.by_source)
    columns = ["prompt_id", "answer", *(["row", "problem", "messages", "source"] if needed else [])]
    pool = pq.read_table(run.path / "pool.parquet", columns=columns)
    ids = pool["prompt_id"].to_pylist()
    answers = dict(zip(ids, pool["answer"].to_pylist(), strict=True))
    if not needed:
        return answers, None
    position = {prompt_id: k for k, prompt_id in enumerate(ids)}
    rows_of = row_reader(run.config.pool.path) if rows_needed else lambda rows: [{}] * len(rows)

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
