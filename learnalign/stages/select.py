"""Stage 6: the selected prompts, as the pool's own rows in order of rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import durable
from learnalign.pool.export import write_selection
from learnalign.progress import Progress
from learnalign.rundir import RunDir
from learnalign.selection import STRATEGIES
from learnalign.stages import Outcome

NAME = "select"
PRODUCTS = ("selection.parquet", "selection.jsonl", "picks.parquet")
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Scores and what is asked for."""
    return {
        "scores": run.output("score", "scores.parquet"),
        "select.n": run.config.select.n,
        "select.strategy": run.config.select.strategy,
        "pool file": durable.sha256_file(run.config.pool.path),
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Rank and write. Prompts that were never sampled are not candidates."""
    scores = pq.read_table(run.path / "scores.parquet")
    state = scores["state"].to_numpy()
    candidates = np.flatnonzero(state != "skipped")
    wanted = run.config.select.n
    values = {name: scores[name].to_numpy() for name in ("score", "success_rate", "learnability", "alignment")}
    usable = np.where(state == "learnable", values["learnability"], 0.0)  # set aside: nothing to rank by
    strategy = STRATEGIES[run.config.select.strategy]
    picked = strategy(values["score"][candidates], usable[candidates], min(wanted, len(candidates)))
    rows = candidates[picked]
    extra = {f"learnalign_{name}": column[rows] for name, column in values.items()}
    extra["learnalign_rank"] = np.arange(1, len(rows) + 1)
    file_rows = scores["row"].to_numpy()[rows]  # not the positions: rows without an answer were left out
    exported = write_selection(run.config.pool.path, file_rows.tolist(), extra, run.path)
    picks = pa.table({"position": rows, "prompt_id": scores["prompt_id"].take(pa.array(rows))})
    durable.write_parquet(run.path / "picks.parquet", picks)
    notes = list(exported.notes)
    if (learnable := int((state == "learnable").sum())) < wanted:
        notes.append(
            f"only {learnable:,} prompts are learnable (0 < p < 1) and {wanted:,} are asked for: "
            "the rest of the selection teaches this policy nothing"
        )
    if len(rows) < wanted:
        notes.append(f"only {len(candidates):,} prompts could be sampled, so {len(rows):,} of {wanted:,} are selected")
    return Outcome(len(rows), notes)
