"""Stage 6: the selected prompts, as the pool's own rows in order of rank, or another (`select.order`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import section_dict
from learnalign.pool import pool_digest
from learnalign.pool.export import write_selection
from learnalign.pool.history import read_histories
from learnalign.pool.sources import pool_files
from learnalign.pool.values import column_values
from learnalign.progress import Progress
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome
from learnalign.schemas import PICKS
from learnalign.scoring import mean_direction, score_against, score_shards
from learnalign.scoring.rows import Rows
from learnalign.selection import (
    Constraints,
    Prompts,
    Search,
    constraints_of,
    pick,
    quota_of,
)
from learnalign.selection.order import ordered
from learnalign.store import SketchReader

NAME = "select"
PRODUCTS = ("selection.parquet", "selection.jsonl", "picks.parquet")
COSTLY = False
MEASURED = ("score", "success_rate", "learnability", "alignment")
"""Columns of the scores that go with a selected prompt."""
COLUMNS = (*MEASURED, "row", "prompt_id", "source", "response_tokens", "state")
"""All that selecting reads; the problems themselves stay on the disk."""


def inputs(run: RunDir) -> dict[str, Any]:
    """Scores and what is asked for. A target acts through the scores."""
    settings = section_dict(run.config, "select")
    history = settings.pop("history")
    del settings["target"]
    return {
        "scores": run.output("score", "scores.parquet"),
        **{f"select.{name}": value for name, value in settings.items()},
        **({"histories": files.sha256_file(history)} if history else {}),
        "pool file": pool_digest(pool_files(run.config.pool.path)),
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Rank and write. Prompts that were never sampled are not candidates."""
    config = run.config.select
    scores = pq.read_table(run.path / "scores.parquet", columns=list(COLUMNS))
    candidates = np.flatnonzero(scores["state"].to_numpy() != "skipped")
    among = scores.take(pa.array(candidates))
    n = min(config.n, len(candidates))
    picks = pick(_prompts(run, among, progress), n, config.strategy, _constraints(run, among, n))
    rows = candidates[picks.indices]
    extra = {f"learnalign_{name}": scores[name].to_numpy()[rows] for name in MEASURED}
    extra["learnalign_rank"] = np.arange(1, len(rows) + 1)
    extra["learnalign_gain"] = picks.gains
    file_rows = scores["row"].to_numpy()[rows]  # not the positions: rows without an answer were left out
    order = ordered(
        config.order,
        scores["success_rate"].to_numpy()[rows],
        file_rows,
        scores["source"].take(pa.array(rows)).to_pylist(),
        config.seed,
    )
    extra = {name: values[order] for name, values in extra.items()}
    exported = write_selection(run.config.pool.path, file_rows[order].tolist(), extra, run.path)
    table = pa.table(
        {"position": rows, "prompt_id": scores["prompt_id"].take(pa.array(rows)), "gain": picks.gains}, schema=PICKS
    )
    files.write_parquet(run.path / "picks.parquet", table)
    notes = [*exported.notes, *picks.notes]
    if n < config.n:
        notes.append(f"only {n:,} prompts could be sampled, so at most {n:,} of {config.n:,} are selected")
    return Outcome(len(rows), notes, {"strategy": {"name": config.strategy, **picks.facts}})


def _prompts(run: RunDir, among: pa.Table, progress: Progress) -> Prompts:
    """The candidates with their sketches."""
    config, reader = run.config.select, SketchReader(run.path / "sketches")
    row_of_id = {prompt_id: row for row, prompt_id in enumerate(reader.prompt_ids)}
    row_of = np.array([row_of_id.get(i, -1) for i in among["prompt_id"].to_pylist()], np.int64)
    there = row_of >= 0
    rows = Rows(reader.shards)
    target = mean_direction(SketchReader(run.target / "sketches").shards) if config.target else None

    def score_of(values: np.ndarray) -> np.ndarray:
        stored = np.zeros(len(rows))
        stored[row_of[there]] = values[there]
        if target is None:
            scored = score_shards(reader.shards, stored, pool_size=len(among)).score
        else:
            scored = score_against(reader.shards, stored, target).score
        found = np.zeros(len(among))
        found[there] = scored[row_of[there]]
        return found

    learnable = among["state"].to_numpy() == "learnable"  # excluded: nothing to rank by
    return Prompts(
        score=among["score"].to_numpy(),
        success_rate=among["success_rate"].to_numpy(),
        learnability=np.where(learnable, among["learnability"].to_numpy(), 0.0),
        rows=rows,
        row_of=row_of,
        score_of=score_of,
        response_length=among["response_tokens"].to_numpy(),
        history=_history(config.history, among["prompt_id"].to_pylist()),
        seed=config.seed,
        search=Search(
            config.candidates_per_pick,
            config.neighbor_seconds,
            run.config.policy.device,
            partial(progress.track, NAME, unit="prompts"),
            config.neighbors,
        ),
    )


def _history(path: str, prompt_ids: list[str]) -> list[list[float]] | None:
    if not path:
        return None
    histories = read_histories(path)
    return [histories.get(prompt_id, []) for prompt_id in prompt_ids]


def _constraints(run: RunDir, among: pa.Table, n: int) -> Constraints:
    config = run.config.select
    cosine = config.duplicate_cosine or None
    if config.quota_share == 1.0:
        return constraints_of(None, None, cosine, len(among))
    if config.quota_column:
        group = column_values(run.config.pool.path, config.quota_column, among["row"].to_pylist())
    else:
        group = among["source"].to_pylist()
    return constraints_of(group, quota_of(config.quota_share, n), cosine, len(among))
