"""Stage 1: the pool file becomes pool.parquet, checked and with its columns found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learnalign import files
from learnalign.config import section_dict
from learnalign.errors import PoolError
from learnalign.pool import read_pool
from learnalign.progress import Progress
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome

NAME = "pool"
PRODUCTS = ("pool.parquet",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """The file's bytes and how its columns are found."""
    if not run.config.pool.path:
        raise PoolError("no pool given: name a JSONL, JSON or Parquet file with --pool")
    if not Path(run.config.pool.path).is_file():
        raise PoolError(f"there is no pool file {run.config.pool.path}: check the path given with --pool")
    settings = {f"pool.{key}": value for key, value in section_dict(run.config, "pool").items() if key != "path"}
    return {"pool file": files.sha256_file(run.config.pool.path), **settings}


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Read, check and write."""
    pool = read_pool(run.config.pool)
    files.write_parquet(run.path / "pool.parquet", pool.prompts)
    facts = {"path": str(pool.path), "sha256": pool.sha256, "columns": pool.columns}
    found = ", ".join(f"{role} from '{column}'" for role, column in pool.columns.items())
    progress.say(f"pool: {pool.rows:,} prompts in {pool.path.name} ({found})")
    return Outcome(pool.rows, _notes(pool.unanswered), facts)


def _notes(unanswered: tuple[str, ...]) -> list[str]:
    if not unanswered:
        return []
    some = ", ".join(unanswered[:3]) + (", ..." if len(unanswered) > 3 else "")
    return [f"{len(unanswered):,} prompts left out, because they have no answer ({some})"]
