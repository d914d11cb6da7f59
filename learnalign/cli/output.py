"""What a verb says: its result on standard output, an error in one line on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from learnalign.errors import LearnAlignError

if TYPE_CHECKING:
    from learnalign.runs.directory import RunDir


@contextmanager
def reported(run: Path) -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except LearnAlignError as error:
        print(f"learnalign: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print(f"\nlearnalign: interrupted; give the same command again to go on in {run}", file=sys.stderr)
        raise typer.Exit(130) from None


def show(run: RunDir, last: str, as_json: bool) -> None:
    """The result on standard output: after the last stage the summary, before it the stage's own line."""
    if as_json:
        print(json.dumps({"directory": str(run.path), "stages": run.manifest["stages"]}))
    elif last == "report":
        from rich.console import Console

        from learnalign.report import summary
        from learnalign.runs.stages.report import facts

        Console().print(summary(facts(run)))
        print(f"selection: {run.path / 'selection.jsonl'} (and .parquet)   report: {run.path / 'report.html'}")
    else:
        record = run.record(last)
        print(f"{last}: {record['rows']:,} rows in {', '.join(str(run.path / p) for p in record['products'])}")
