"""The verbs that ask about a run directory: `status`, `export`, `suspects` and `check`, which also repairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from learnalign.cli.options import AsJson, RunArgument
from learnalign.cli.output import reported

if TYPE_CHECKING:
    from learnalign.runs.directory import RunDir


def status(run: RunArgument, as_json: AsJson = False) -> None:
    """Show the stages of a run: what is done, and what is stale."""
    with reported(run):
        from learnalign.runs import pipeline
        from learnalign.runs.directory import open_run
        from learnalign.runs.stages import stages

        opened = open_run(run)
        changed = pipeline.stale(opened)
        rows = [_stage_row(opened, name, changed.get(name, [])) for name in stages(opened.config)]
        if as_json:
            print(json.dumps({"directory": str(run), "stages": rows}))
            return
        print(f"{'stage':<9}{'state':<13}{'rows':>12}{'seconds':>11}")
        for row in rows:
            count = "" if row["rows"] is None else f"{row['rows']:,}"
            seconds = "" if row["seconds"] is None else f"{row['seconds']:,.1f}"
            print(f"{row['stage']:<9}{row['state']:<13}{count:>12}{seconds:>11}  {'; '.join(row['changed'])}")


def _stage_row(run: RunDir, name: str, changed: list[str]) -> dict[str, Any]:
    record = run.record(name)
    state = "stale" if changed else record.get("state", "not started")
    return {
        "stage": name,
        "state": "interrupted" if state == "running" else state,
        "rows": record.get("rows"),
        "seconds": record.get("seconds"),
        "changed": changed,
    }


def export(
    run: RunArgument,
    everything: Annotated[
        bool, typer.Option("--all", help="All prompts that were measured, not the selected.")
    ] = False,
) -> None:
    """Write the whole pool back with its success rates and scores."""
    with reported(run):
        from learnalign.errors import ConfigError
        from learnalign.runs.directory import open_run
        from learnalign.runs.export import export_all

        if not everything:
            raise ConfigError(f"the selection is in {run / 'selection.parquet'} already; give --all for the whole pool")
        written = export_all(open_run(run))
        for note in written.notes:
            print(note)
        print(f"all prompts with what was measured: {written.parquet} (and .jsonl)")


def suspects(
    run: RunArgument,
    against: Annotated[
        str, typer.Option("--against", help="Pool file of a test set: list copies of its problems, too.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List prompts whose reference answer is probably wrong."""
    with reported(run):
        from learnalign.runs.directory import open_run
        from learnalign.runs.suspects import find_suspects, write_suspects
        from learnalign.suspects import SIGNALS

        opened = open_run(run)
        found = find_suspects(opened, against)
        file = write_suspects(opened, found)
        if as_json:
            print(json.dumps([one._asdict() for one in found], ensure_ascii=False))
            return
        for signal, meaning in SIGNALS.items():
            own = [one for one in found if one.signal == signal]
            print(f"{signal}: {len(own):,} ({meaning})")
            for one in own:
                print(f"  {one.prompt_id}: {one.evidence}")
        print(f"with answers and problems: {file}; how far to trust a signal: learnalign guide suspects")


def check(
    run: RunArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged sketches aside; run makes them again.")] = False,
) -> None:
    """Verify every file of a run, and every block of sketches."""
    with reported(run):
        from learnalign.runs import pipeline
        from learnalign.runs.directory import open_run

        opened = open_run(run)
        if repair:
            repaired = pipeline.repair(opened)
            for line in repaired:
                print(f"excluded: {line}")
            if repaired:
                print(f"'learnalign run {run}' makes these sketches again")
        damage = pipeline.verify(opened)
        for line in damage:
            print(line)
        if damage:
            raise typer.Exit(1)
        print(f"{run}: every file matches its digest")
