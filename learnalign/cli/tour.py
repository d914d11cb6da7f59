"""The verbs for a first look: `demo` runs everything on arithmetic, `guide` shows what to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from learnalign.cli.asked import named
from learnalign.cli.options import AsJson, Quiet, Ray
from learnalign.cli.output import reported, show


def demo(
    run: Annotated[Path, typer.Argument(help="Run directory.")] = Path("runs/demo"),
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run everything on arithmetic with the policy that is shipped."""
    with reported(run):
        from learnalign.config import with_values
        from learnalign.demo.run import demo_config
        from learnalign.progress import Progress
        from learnalign.runs import pipeline
        from learnalign.runs.directory import create_run

        config = with_values(demo_config(run), named(ray=ray), "command line")
        opened = create_run(run, config)
        pipeline.work(opened, config, "report", Progress(quiet or as_json))
        show(opened, "report", as_json)


def guide(topic: Annotated[str, typer.Argument(help="A page; without one, what pages there are.")] = "") -> None:
    """Show a guide, or list the guides."""
    with reported(Path()):
        from rich.console import Console
        from rich.markdown import Markdown

        from learnalign.guides import TOPICS, page, summary

        if not topic:
            for name in TOPICS:
                print(f"{name:<15}{summary(name)}")
            return
        text = page(topic)
        if sys.stdout.isatty():
            Console().print(Markdown(text))
        else:
            print(text, end="")
