"""Options that several verbs have. What settings they stand for is in `asked`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from learnalign.config import choices

RunArgument = Annotated[Path, typer.Argument(help="Run directory; everything that is made lands there.")]
Pool = Annotated[
    list[str] | None,
    typer.Option(
        "--pool",
        help="Prompts with answers: a JSONL, JSON or Parquet file, a folder, a glob, or a cached data set of the hub. "
        "Give it several times for several, with #1000, #30% or #0:500 behind a file for a part of it.",
    ),
]
ProblemColumn = Annotated[str | None, typer.Option("--problem-column", help="Column of the pool with the problem.")]
AnswerColumn = Annotated[str | None, typer.Option("--answer-column", help="Column of the pool with the answer.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column of the pool with an id of every prompt.")]
SourceColumn = Annotated[str | None, typer.Option("--source-column", help="Column of the pool with its source.")]
Model = Annotated[str | None, typer.Option("--model", help="Policy: a model directory or hub name.")]
Select = Annotated[int | None, typer.Option("--select", "-n", help="How many prompts to select.")]
Strategy = Annotated[
    str | None, typer.Option("--strategy", help=f"How to select: {', '.join(choices('select.strategy'))}.")
]
Target = Annotated[
    str | None, typer.Option("--target", help="Pool file of a target set: align with it instead of with the pool.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Compute on a Ray cluster: auto (this machine's), HOST:PORT, or local (all devices of this machine).",
    ),
]
RewardColumn = Annotated[
    str, typer.Option(help="Column of the logs with the reward; several and their weights as a=1,b=0.5.")
]
CorrectColumn = Annotated[
    str, typer.Option(help="Column of the logs that decides: verdicts, or numbers from reward.threshold on.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as section.key=value; see RUN/config.toml.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Result as one JSON object; no progress.")]
