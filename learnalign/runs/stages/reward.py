"""Stage 3: every response is judged against its prompt's answer; one Parquet part a part of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learnalign import files
from learnalign.errors import RewardError
from learnalign.progress import Progress
from learnalign.rewards import Verdict, is_function
from learnalign.rewards.correctness import all_or_nothing, distinct_rewards
from learnalign.rewards.verdict import is_correct
from learnalign.runs.directory import RunDir
from learnalign.runs.rounds import made_verdicts
from learnalign.runs.stages import Outcome
from learnalign.runs.verifier import IMPORTED, open_verifier, verdict_table, verifier_inputs

NAME = "reward"
PRODUCTS = ("rewards",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Responses, answers and the verifier."""
    found: dict[str, Any] = {
        "pool": run.output("pool", "pool.parquet"),
        "rollouts": run.output("rollout", "rollouts"),
        **verifier_inputs(run),
    }
    if IMPORTED in run.config.reward.verifiers and not run.record("rollout").get("imported"):
        raise RewardError(f"reward.verifier is imported, but the responses in {run.path} were sampled: name another")
    return found


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Verifier the parts that are not judged yet."""
    parts = sorted((run.path / "rollouts").glob("part-*.parquet"))
    total, notes, facts = _judge_parts(run, parts, progress)
    return Outcome(total, [*notes, *_counted(run), *_notes(run)], facts)


def _judge_parts(run: RunDir, parts: Sequence[Path], progress: Progress) -> tuple[int, list[str], dict[str, Any]]:
    """Write the verdicts of the parts that have none; all the responses there are, what to say of it, and facts."""
    folder = run.path / "rewards"
    folder.mkdir(exist_ok=True)
    for part in parts:  # judged while sampling, to decide on the next round
        made = made_verdicts(part)
        if made and not (folder / part.name).exists():
            files.write_bytes(folder / part.name, made.read_bytes())
    counts = [pq.read_metadata(part).num_rows for part in parts]
    todo = [k for k, part in enumerate(parts) if not (folder / part.name).exists()]
    total = sum(counts)
    done = total - sum(counts[k] for k in todo)
    with _judging(run, progress) as judging, progress.track(NAME, total, "responses", done=done) as advance:
        read = ((parts[k], pq.read_table(parts[k], columns=judging.columns)) for k in todo)
        for part, table in judging.judge(read):
            files.write_parquet(folder / part.name, table)
            advance(table.num_rows)
        return (total, judging.notes(), judging.facts()) if todo else (total, [], {})


class _PartVerifier(NamedTuple):
    """How parts of rollouts become verdicts."""

    columns: list[str]
    judge: Callable[[Iterable[tuple[Path, pa.Table]]], Iterator[tuple[Path, pa.Table]]]
    notes: Callable[[], list[str]]
    facts: Callable[[], dict[str, Any]]


@contextmanager
def _judging(run: RunDir, progress: Progress) -> Iterator[_PartVerifier]:
    """Verdicts from the verifier that is configured, or as they were imported."""
    config = run.config.reward
    if IMPORTED in config.verifiers:
        columns = ["prompt_id", "response", "reward", "correct"]

        def imported(parts: Iterable[tuple[Path, pa.Table]]) -> Iterator[tuple[Path, pa.Table]]:
            return ((part, verdict_table(rows, _imported(rows, config.threshold))) for part, rows in parts)

        yield _PartVerifier(columns, imported, list, dict)
        return
    with open_verifier(run, run.config.cluster, progress) as opened:
        yield _PartVerifier(["prompt_id", "response", "text"], opened.judge, opened.notes, opened.facts)


def _imported(rows: pa.Table, threshold: float) -> list[Verdict]:
    """Verdicts as they were logged; where only rewards were, correct from `threshold` on."""
    found = []
    for reward, correct in zip(rows["reward"].to_pylist(), rows["correct"].to_pylist(), strict=True):
        known = is_correct(reward, threshold) if correct is None else correct
        found.append(Verdict(known, reward, "imported" if known else "wrong"))
    return found


def _counted(run: RunDir) -> list[str]:
    """Which rewards count as correct, where numbers decide it. Raises `RewardError` where that cannot be meant."""
    config = run.config.reward
    if IMPORTED not in config.verifiers and not any(map(is_function, config.verifiers)):
        return []
    parts = sorted((run.path / "rewards").glob("part-*.parquet"))
    table = pa.concat_tables(pq.read_table(part, columns=["prompt_id", "reward", "correct"]) for part in parts)
    if config.by_source:
        table = table.filter(pc.is_in(table["prompt_id"], _of_functions(run)))
    prompts = table["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    rewards, correct = table["reward"].to_numpy(), table["correct"].to_numpy()
    listed = distinct_rewards(rewards, correct)
    problem = "" if config.graded else all_or_nothing(prompts, rewards, correct)
    if problem:
        raise RewardError(
            f"{problem} ({listed}): say from which reward on a response is correct with --set reward.threshold=X "
            f"(now {config.threshold:g}), or that none means correct with --set reward.graded=true"
        )
    return [listed]


def _of_functions(run: RunDir) -> pa.Array:
    """The ids of the prompts whose source is judged by a function."""
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "source"])
    sources = [source for source, name in run.config.reward.by_source.items() if is_function(name)]
    own = pool.filter(pc.is_in(pool["source"], pa.array(sources, pa.string())))
    return own["prompt_id"].combine_chunks()


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
