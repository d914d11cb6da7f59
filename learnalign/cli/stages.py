"""The verbs that work on a run: `run` for all of its stages, `plan` for what they will cost, and one a stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from learnalign.cli.asked import COLUMNS, Asked, asks
from learnalign.cli.options import AsJson, Quiet, RunArgument
from learnalign.cli.output import reported, show

VERBS = {
    "run": ("report", "Select prompts: run all stages, or go on where it stopped."),
    "plan": ("plan", "Say what a run will cost, from some of its prompts."),
    "warmup": ("warmup", "Train the policy a little on 300 random prompts of the pool."),
    "rollout": ("rollout", "Read the pool and sample responses to every prompt."),
    "reward": ("reward", "Do what rollout does, and judge the responses."),
    "sketch": ("sketch", "Do what reward does, and sketch every prompt's gradient."),
    "score": ("score", "Do what sketch does, and score the prompts."),
    "select": ("select", "Do what score does, and write the selection."),
    "report": ("report", "Do what select does, and write report.html, as run does."),
}
"""The last stage that a verb works on (`plan` is none), and its help."""
WARMUP_PROMPTS = 300
"""Of the verb `warmup` where the configuration does not say."""


def verb(last: str) -> Callable[..., None]:
    """The command that works up to the stage `last`."""

    @asks("pool", "model", *COLUMNS, "select", "strategy", "target", "ray")
    def command(run: RunArgument, *, asked: Asked, quiet: Quiet = False, as_json: AsJson = False) -> None:
        with reported(run):
            _work(last, run, asked, quiet, as_json)

    return command


def _work(last: str, run: Path, asked: Asked, quiet: bool, as_json: bool) -> None:
    from learnalign.config import parse_assignment
    from learnalign.progress import Progress
    from learnalign.runs import pipeline
    from learnalign.runs.directory import create_run

    config = asked.config(run)
    if last == "plan":
        from learnalign.runs.plan import plan

        found = plan(create_run(run, config), config, quiet or as_json)
        print(json.dumps(found.facts()) if as_json else "\n".join(found.lines()))
        return
    if last == "warmup" and not config.warmup.prompts:
        config = parse_assignment(config, f"warmup.prompts={WARMUP_PROMPTS}")
    opened = create_run(run, config)
    pipeline.work(opened, config, last, Progress(quiet or as_json))
    show(opened, last, as_json)
