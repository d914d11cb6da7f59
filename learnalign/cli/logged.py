"""The verbs that read what others sampled: `import` makes a run of it, `next` goes on with a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from learnalign.cli.asked import COLUMNS, Asked, asks
from learnalign.cli.options import AsJson, CorrectColumn, Quiet, RewardColumn, RunArgument
from learnalign.cli.output import reported, show


@asks("pool", "model", *COLUMNS, "select")
def import_(
    run: Annotated[Path, typer.Argument(help="Run directory to make.")],
    logs: Annotated[
        list[Path], typer.Argument(help="Files or folders: verl's rollout_data_dir, TRL's completions, ...")
    ],
    *,
    asked: Asked,
    reward_column: RewardColumn = "",
    correct_column: CorrectColumn = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run directory of rollouts that were logged elsewhere."""
    with reported(run):
        from learnalign.logs.importing import import_rollouts
        from learnalign.progress import Progress

        config = asked.config(run)
        columns = {"reward_column": reward_column, "correct_column": correct_column}
        opened = import_rollouts(run, logs, config, Progress(quiet or as_json), **columns)
        show(opened, "rollout", as_json)
        if not as_json:
            print(f"go on with: learnalign run {run}")


@asks("pool", *COLUMNS, "select", "ray")
def next_(
    run: RunArgument,
    policy: Annotated[str | None, typer.Option("--policy", "--model", help="Checkpoint that training is at.")] = None,
    observed: Annotated[
        list[Path] | None,
        typer.Option("--observed", help="Rollouts of the training since the last call: verl's rollout_data_dir, ..."),
    ] = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Also compare gradients of what was observed, under --policy.")
    ] = False,
    *,
    asked: Asked,
    reward_column: RewardColumn = "",
    correct_column: CorrectColumn = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the next prompts to train on, from a training's logs."""
    with reported(run):
        from learnalign.online.next import next_prompts
        from learnalign.progress import Progress

        config = asked.config(run, model=policy)
        columns = {"reward_column": reward_column, "correct_column": correct_column}
        result = next_prompts(run, config, observed or [], Progress(quiet or as_json), gradients=gradients, **columns)
        if as_json:
            files = {"jsonl": str(result.files.jsonl), "parquet": str(result.files.parquet)}
            print(json.dumps({"number": result.number, **files, **result.facts}))
            return
        facts = result.facts
        print(
            f"call {result.number}: {facts['responses']:,} responses observed, {facts['gradients']:,} gradients "
            f"compared; of the picks {facts['unseen']:,} are new to the training"
        )
        print(f"next to train on: {result.files.parquet} (and .jsonl)")
