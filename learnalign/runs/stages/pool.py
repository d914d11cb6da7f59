"""Stage 1: the pool becomes pool.parquet, checked and with its columns found."""

from __future__ import annotations

from typing import Any

from learnalign import files
from learnalign.config import section_dict
from learnalign.pool import pool_digest, read_pool, stored
from learnalign.pool.export import try_export
from learnalign.pool.sources import pool_shares
from learnalign.progress import Progress
from learnalign.rewards import is_function
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome

NAME = "pool"
PRODUCTS = ("pool.parquet",)
COSTLY = False
TRIED = 100
"""Rows that are exported on trial."""


def inputs(run: RunDir) -> dict[str, Any]:
    """The files' bytes and how their columns are found."""
    settings = {f"pool.{key}": value for key, value in section_dict(run.config, "pool").items() if key != "path"}
    needed = {} if _needs_answers(run) else {"answers": "not needed"}
    shares = pool_shares(run.config.pool.path)
    taken = {"rows of the pool": ", ".join(share for _, share in shares)} if any(share for _, share in shares) else {}
    return {"pool file": pool_digest([file for file, _ in shares]), **taken, **settings, **needed}


def _needs_answers(run: RunDir) -> bool:
    """A function of one's own gets the whole row, and need not look at an answer."""
    return not any(map(is_function, run.config.reward.verifiers))


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Read, check and write."""
    pool = read_pool(run.config.pool, answers=_needs_answers(run))
    unlike = try_export(run.config.pool.path, pool.prompts["row"].slice(0, TRIED).to_pylist())
    files.write_parquet(run.path / "pool.parquet", stored(pool.prompts))
    names = ", ".join(path.name for path in pool.paths)
    facts = {"path": ", ".join(map(str, pool.paths)), "name": names, "sha256": pool.sha256, "columns": pool.columns}
    found = ", ".join(f"{role} from '{column}'" for role, column in pool.columns.items())
    progress.say(f"pool: {pool.rows:,} prompts in {names} ({found})")
    return Outcome(pool.rows, [*pool.notes, *_notes(pool.unanswered), *unlike], facts)


def _notes(unanswered: tuple[str, ...]) -> list[str]:
    if not unanswered:
        return []
    some = ", ".join(unanswered[:3]) + (", ..." if len(unanswered) > 3 else "")
    return [f"{len(unanswered):,} prompts left out, because they have no answer ({some})"]
