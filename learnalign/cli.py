"""The command line: one verb a stage, `run` for all of them, and questions about a run directory.

Errors that a user can repair end in one line on standard error and exit code 2; an interruption ends in 130.
Results go to standard output, progress to standard error. Heavy modules are imported inside the verbs, so that
`--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from learnalign.config import choices
from learnalign.errors import LearnAlignError

if TYPE_CHECKING:
    from learnalign.config import Config
    from learnalign.runs.directory import RunDir

SETTING_OF = {
    "pool": ("pool", "path"),
    "problem_column": ("pool", "problem_column"),
    "answer_column": ("pool", "answer_column"),
    "id_column": ("pool", "id_column"),
    "source_column": ("pool", "source_column"),
    "model": ("policy", "model"),
    "select": ("select", "n"),
    "strategy": ("select", "strategy"),
    "target": ("select", "target"),
    "ray": ("cluster", "address"),
}
"""Options of their own: section and name of the setting."""

WARMUP_PROMPTS = 300
"""Of the verb `warmup` where the configuration does not say."""

app = typer.Typer(
    help="Pick the training prompts that are worth a GPU hour: learnable and gradient-aligned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"learnalign {version('learnalign')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Options of the command itself."""


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


def _work(
    last: str,
    run: Path,
    named: dict[str, dict[str, Any]],
    settings: list[str] | None,
    config: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Shared body of `run` and of the stage verbs."""
    with _reported(run):
        from learnalign.config import parse_assignment
        from learnalign.progress import Progress
        from learnalign.runs import pipeline
        from learnalign.runs.directory import create_run

        asked = _config(run, config, named, settings or [])
        if last == "plan":
            from learnalign.runs.plan import plan

            found = plan(create_run(run, asked), asked, quiet or as_json)
            print(json.dumps(found.facts()) if as_json else "\n".join(found.lines()))
            return
        if last == "warmup" and not asked.warmup.prompts:
            asked = parse_assignment(asked, f"warmup.prompts={WARMUP_PROMPTS}")
        opened = create_run(run, asked)
        pipeline.work(opened, asked, last, Progress(quiet or as_json))
        _show(opened, last, as_json)


def _config(run: Path, file: Path | None, named: dict[str, dict[str, Any]], settings: list[str]) -> Config:
    """Settings in rising priority: defaults, the run directory's own or --config, --set, the named options."""
    from learnalign import config as c
    from learnalign.runs.directory import open_run

    there = open_run(run).config if (run / "manifest.json").exists() else c.Config()
    config = c.read_config(file) if file else there
    config = c.parse_assignments(config, settings, named)
    reward = config.reward
    by_source = {source: _verifier(name) for source, name in reward.by_source.items()}
    return c.with_values(
        config, {"reward": {"verifier": _verifier(reward.verifier), "by_source": by_source}}, "command line"
    )


def _verifier(name: str) -> str:
    """A verifier as it is found from everywhere: the file of a function made absolute."""
    file, _, function = name.rpartition(":")
    return f"{Path(file).absolute()}:{function}" if file else name


def _named(**given: Any) -> dict[str, dict[str, Any]]:
    """The settings that have options of their own, where they were given; paths made absolute."""
    settings: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if value is None or value == []:
            continue
        section, key = SETTING_OF[name]
        settings.setdefault(section, {})[key] = _absolute(name, value)
    return settings


def _absolute(name: str, value: Any) -> Any:
    """A path as it is seen from everywhere; a hub name and what is no path as they are."""
    if name == "pool":
        return [_path(one) for one in value] if len(value) > 1 else _path(value[0])
    if name == "model":
        return str(Path(value).absolute()) if Path(value).is_dir() else value
    return _path(value) if name == "target" else value


def _path(name: str) -> str:
    from learnalign.pool.sources import is_data_set

    return name if is_data_set(name) else str(Path(name).absolute())


def _show(run: RunDir, last: str, as_json: bool) -> None:
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


@contextmanager
def _reported(run: Path) -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except LearnAlignError as error:
        print(f"learnalign: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        print(f"\nlearnalign: interrupted; give the same command again to go on in {run}", file=sys.stderr)
        raise typer.Exit(130) from None


def _add_stage(name: str, last: str, text: str) -> None:
    def command(
        run: RunArgument,
        pool: Pool = None,
        model: Model = None,
        problem_column: ProblemColumn = None,
        answer_column: AnswerColumn = None,
        id_column: IdColumn = None,
        source_column: SourceColumn = None,
        select: Select = None,
        strategy: Strategy = None,
        target: Target = None,
        ray: Ray = None,
        settings: Settings = None,
        config: ConfigFile = None,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        named = _named(
            pool=pool,
            problem_column=problem_column,
            answer_column=answer_column,
            id_column=id_column,
            source_column=source_column,
            model=model,
            select=select,
            strategy=strategy,
            target=target,
            ray=ray,
        )
        _work(last, run, named, settings, config, quiet, as_json)

    app.command(name, help=text)(command)


_add_stage("run", "report", "Select prompts: run all stages, or go on where it stopped.")
_add_stage("plan", "plan", "Say what a run will cost, from some of its prompts.")
_add_stage("warmup", "warmup", "Train the policy a little on 300 random prompts of the pool.")
_add_stage("rollout", "rollout", "Read the pool and sample responses to every prompt.")
_add_stage("reward", "reward", "Do what rollout does, and judge the responses.")
_add_stage("sketch", "sketch", "Do what reward does, and sketch every prompt's gradient.")
_add_stage("score", "score", "Do what sketch does, and score the prompts.")
_add_stage("select", "select", "Do what score does, and write the selection.")
_add_stage("report", "report", "Do what select does, and write report.html, as run does.")


@app.command("import")
def import_(
    run: Annotated[Path, typer.Argument(help="Run directory to make.")],
    logs: Annotated[
        list[Path], typer.Argument(help="Files or folders: verl's rollout_data_dir, TRL's completions, ...")
    ],
    pool: Pool = None,
    model: Model = None,
    problem_column: ProblemColumn = None,
    answer_column: AnswerColumn = None,
    id_column: IdColumn = None,
    source_column: SourceColumn = None,
    select: Select = None,
    settings: Settings = None,
    config: ConfigFile = None,
    reward_column: RewardColumn = "",
    correct_column: CorrectColumn = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a run directory of rollouts that were logged elsewhere."""
    with _reported(run):
        from learnalign.logs.importing import import_rollouts
        from learnalign.progress import Progress

        named = _named(
            pool=pool,
            problem_column=problem_column,
            answer_column=answer_column,
            id_column=id_column,
            source_column=source_column,
            model=model,
            select=select,
        )
        asked = _config(run, config, named, settings or [])
        progress = Progress(quiet or as_json)
        columns = {"reward_column": reward_column, "correct_column": correct_column}
        opened = import_rollouts(run, logs, asked, progress, **columns)
        _show(opened, "rollout", as_json)
        if not as_json:
            print(f"go on with: learnalign run {run}")


@app.command("next")
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
    pool: Pool = None,
    problem_column: ProblemColumn = None,
    answer_column: AnswerColumn = None,
    id_column: IdColumn = None,
    source_column: SourceColumn = None,
    select: Select = None,
    ray: Ray = None,
    settings: Settings = None,
    config: ConfigFile = None,
    reward_column: RewardColumn = "",
    correct_column: CorrectColumn = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the next prompts to train on, from a training's logs."""
    with _reported(run):
        from learnalign.online.next import next_prompts
        from learnalign.progress import Progress

        named = _named(
            pool=pool,
            problem_column=problem_column,
            answer_column=answer_column,
            id_column=id_column,
            source_column=source_column,
            model=policy,
            select=select,
            ray=ray,
        )
        asked = _config(run, config, named, settings or [])
        columns = {"reward_column": reward_column, "correct_column": correct_column}
        result = next_prompts(run, asked, observed or [], Progress(quiet or as_json), gradients=gradients, **columns)
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


@app.command()
def status(run: RunArgument, as_json: AsJson = False) -> None:
    """Show the stages of a run: what is done, and what is stale."""
    with _reported(run):
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


@app.command()
def export(
    run: RunArgument,
    everything: Annotated[
        bool, typer.Option("--all", help="All prompts that were measured, not the selected.")
    ] = False,
) -> None:
    """Write the whole pool back with its success rates and scores."""
    with _reported(run):
        from learnalign.errors import ConfigError
        from learnalign.runs.directory import open_run
        from learnalign.runs.export import export_all

        if not everything:
            raise ConfigError(f"the selection is in {run / 'selection.parquet'} already; give --all for the whole pool")
        written = export_all(open_run(run))
        for note in written.notes:
            print(note)
        print(f"all prompts with what was measured: {written.parquet} (and .jsonl)")


@app.command()
def suspects(
    run: RunArgument,
    against: Annotated[
        str, typer.Option("--against", help="Pool file of a test set: list copies of its problems, too.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List prompts whose reference answer is probably wrong."""
    with _reported(run):
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


@app.command()
def check(
    run: RunArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged sketches aside; run makes them again.")] = False,
) -> None:
    """Verify every file of a run, and every block of sketches."""
    with _reported(run):
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


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="Run directory.")] = Path("runs/demo"),
    ray: Ray = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run everything on arithmetic with the policy that is shipped."""
    with _reported(run):
        from learnalign.config import with_values
        from learnalign.demo.run import demo_config
        from learnalign.progress import Progress
        from learnalign.runs import pipeline
        from learnalign.runs.directory import create_run

        config = with_values(demo_config(run), _named(ray=ray), "command line")
        opened = create_run(run, config)
        pipeline.work(opened, config, "report", Progress(quiet or as_json))
        _show(opened, "report", as_json)


@app.command()
def guide(topic: Annotated[str, typer.Argument(help="A page; without one, what pages there are.")] = "") -> None:
    """Show a guide, or list the guides."""
    with _reported(Path()):
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


def main() -> None:
    """Entry point of the `learnalign` command."""
    app()


if __name__ == "__main__":
    main()
