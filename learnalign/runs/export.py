"""The whole pool written back with what a run has measured of it, for trainers that choose by success rate themselves.

This module measures and chooses nothing; see `pool.export` for what the files hold.
"""

from __future__ import annotations

import pyarrow.parquet as pq

from learnalign.errors import RunError
from learnalign.pool.export import SelectionFiles, write_selection
from learnalign.runs.directory import RunDir

MEASURED = (
    "success_rate",
    "responses",
    "learnability",
    "score",
    "alignment",
    "gradient_norm",
    "response_tokens",
    "state",
)


def export_all(run: RunDir) -> SelectionFiles:
    """Write all prompts of the pool, in its order, to `all.jsonl` and `all.parquet` of the run directory.

    Rows that the pool left out (no answer, copies) are not in them. NaN stands for what was not measured. All rows are
    held in memory. Raises `RunError` before the prompts are scored.
    """
    path = run.path / "scores.parquet"
    if run.record("score").get("state") != "done" or not path.exists():
        raise RunError(f"{run.path} has no scores yet: 'learnalign score {run.path}' makes them")
    scores = pq.read_table(path, columns=["row", *MEASURED])
    extra = {f"learnalign_{name}": scores[name].to_numpy(zero_copy_only=False) for name in MEASURED}
    return write_selection(run.config.pool.path, scores["row"].to_numpy(), extra, run.path, "all")
