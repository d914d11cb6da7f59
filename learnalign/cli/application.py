"""The command `learnalign`: its own options, and its verbs in the order in which the help lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from learnalign.cli import directory, logged, stages, tour

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


for name, (last, text) in stages.VERBS.items():
    app.command(name, help=text)(stages.verb(last))
app.command("import")(logged.import_)
app.command("next")(logged.next_)
for verb in (directory.status, directory.export, directory.suspects, directory.check, tour.demo, tour.guide):
    app.command()(verb)


def main() -> None:
    """Entry point of the `learnalign` command."""
    app()
