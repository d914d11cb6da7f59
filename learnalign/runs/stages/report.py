"""Stage 7: report.html, what was asked, what was found, and where the time went."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq

from learnalign import files
from learnalign.progress import Progress
from learnalign.report import ReportFacts, render
from learnalign.runs.directory import RunDir
from learnalign.runs.stages import Outcome, stages
from learnalign.runs.suspects import find_suspects

NAME = "report"
PRODUCTS = ("report.html",)
COSTLY = False


def inputs(run: RunDir) -> dict[str, Any]:
    """Scores and selection, what suspects are found in, and the seconds of the stages before."""
    seconds = {f"{name}.seconds": stage.get("seconds", 0.0) for name, stage in run.manifest["stages"].items()}
    seconds.pop("report.seconds", None)
    return {
        "pool": run.output("pool", "pool.parquet"),
        "rewards": run.output("reward", "rewards"),
        "scores": run.output("score", "scores.parquet"),
        "selection": run.output("select", "selection.parquet"),
        **seconds,
    }


def execute(run: RunDir, progress: Progress) -> Outcome:
    """Draw and write."""
    shown, suspects = facts(run), find_suspects(run)
    files.write_text(run.path / "report.html", render(replace(shown, suspects=tuple(suspects))))
    return Outcome(1, _notes(run, shown, {one.prompt_id for one in suspects}))


def _notes(run: RunDir, shown: ReportFacts, suspect: set[str]) -> list[str]:
    if not suspect:
        return []
    picked = {shown.text("prompt_id", k) for k in shown.selected}
    return [
        f"{len(suspect):,} prompts have a suspect reference answer, {len(suspect & picked):,} of them selected: "
        f"'learnalign suspects {run.path}' lists them"
    ]


def facts(run: RunDir) -> ReportFacts:
    """What the page and the terminal's summary show."""
    records = run.manifest["stages"]
    scores = pq.read_table(run.path / "scores.parquet")
    manifest = {
        "learnalign": run.manifest["versions"].get("learnalign"),
        "versions": run.manifest["versions"],
        "policy": records["rollout"].get("policy", {}),
        "pool": records["pool"],
        "stages": {name: records[name] for name in stages(run.config) if name in records and name != NAME},
    }
    picks = pq.read_table(run.path / "picks.parquet")["position"].to_numpy()
    return ReportFacts(run.path.name, run.config, manifest, scores, picks)
