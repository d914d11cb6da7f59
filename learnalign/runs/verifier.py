"""A run's verifier, ready to judge responses to the run's prompts: what its stages share that need verdicts.

A verifier takes gold answers, and some of them whole rows of the pool; this module finds both by prompt id. It does
not judge (see `rewards`), and writes no files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learnalign.cluster import Unit, Workers, open_workers
from learnalign.config import ClusterConfig
from learnalign.errors import RewardError
from learnalign.pool.rows import row_reader
from learnalign.progress import Progress
from learnalign.rewards import Prompt, Verdict, is_function, needs_rows, source_digest
from learnalign.rewards.by_source import without_verifier
from learnalign.runs.directory import RunDir
from learnalign.runs.judging import Judging
from learnalign.schemas import VERDICTS

IMPORTED = "imported"
"""The verifier that judges nothing: rewards stand in the rollouts already."""
HERE = ClusterConfig()


class OpenVerifier:
    """An open verifier, with what it must know of the run's prompts."""

    def __init__(
        self,
        workers: Workers,
        answers: Mapping[str, str],
        prompts: Callable[[Sequence[str]], list[Prompt]] | None,
    ) -> None:
        self.workers, self._answers, self._prompts = workers, answers, prompts

    def judge(self, parts: Iterable[tuple[Path, pa.Table]]) -> Iterator[tuple[Path, pa.Table]]:
        """Parts of rollouts with the columns prompt_id, response and text; their verdicts, as they come."""
        units = (
            self._unit(rows["text"].to_pylist(), rows["prompt_id"].to_pylist(), (part, rows)) for part, rows in parts
        )
        for unit, verdicts in self.workers.map(units, ordered=False):
            part, rows = unit.kept
            yield part, verdict_table(rows, verdicts)

    def verdicts(self, texts: Sequence[str], ids: Sequence[str]) -> list[Verdict]:
        """Of responses as text, given the ids of their prompts."""
        (found,) = (verdicts for _, verdicts in self.workers.map([self._unit(texts, ids)]))
        return list(found)

    def facts(self) -> dict[str, Any]:
        """Who judged, where that was not this process."""
        return self.workers.facts()

    def notes(self) -> list[str]:
        """What a person should know of how the verifier works here."""
        return [*self.workers.ask("notes"), *self.workers.notes()]

    def _unit(self, texts: Sequence[str], ids: Sequence[str], kept: Any = None) -> Unit:
        prompts = self._prompts(ids) if self._prompts else None
        return Unit(list(dict.fromkeys(ids)), (texts, [self._answers[i] for i in ids], prompts), kept)


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
def open_verifier(
    run: RunDir, cluster: ClusterConfig = HERE, progress: Progress | None = None, *, beside: bool = False
) -> Iterator[OpenVerifier]:
    """The verifier that is configured; leaving ends its processes. Raises `RewardError` or `PoolError`.

    cluster: whose workers judge, default this process. beside: while workers of another kind hold the cluster.
    """
    answers, prompts = _pool(run)
    work = Judging(run.config.reward, beside)
    with open_workers(cluster, work, "reward", progress or Progress(quiet=True)) as workers:
        yield OpenVerifier(workers, answers, prompts)


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
