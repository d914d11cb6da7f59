"""The settings that a command line asks for: options of their own, --set and --config, over what the run has.

A verb says by `asks` which options of its own it has, and is given an `Asked`. Paths are made absolute here, so that a
run directory can be used from everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learnalign.cli import options

if TYPE_CHECKING:
    from learnalign.config import Config

COLUMNS = ("problem_column", "answer_column", "id_column", "source_column")
SETTING_OF = {
    "pool": ("pool", "path"),
    **{column: ("pool", column) for column in COLUMNS},
    "model": ("policy", "model"),
    "select": ("select", "n"),
    "strategy": ("select", "strategy"),
    "target": ("select", "target"),
    "ray": ("cluster", "address"),
}
"""Options of their own: section and name of the setting."""
OPTION = {
    "pool": options.Pool,
    "problem_column": options.ProblemColumn,
    "answer_column": options.AnswerColumn,
    "id_column": options.IdColumn,
    "source_column": options.SourceColumn,
    "model": options.Model,
    "select": options.Select,
    "strategy": options.Strategy,
    "target": options.Target,
    "ray": options.Ray,
    "settings": options.Settings,
    "config": options.ConfigFile,
}
"""How each of them, and --set and --config, is declared."""


@dataclass(frozen=True)
class Asked:
    """What a command line says about settings. own: values of the options in `SETTING_OF`, None where not given."""

    own: dict[str, Any]
    settings: list[str]
    file: Path | None

    def config(self, run: Path, **own: Any) -> Config:
        """Settings in rising priority: defaults, the run directory's own or --config, --set, the named options.

        own: values of more options.
        """
        from learnalign import config as c
        from learnalign.runs.directory import open_run

        there = open_run(run).config if (run / "manifest.json").exists() else c.Config()
        config = c.read_config(self.file) if self.file else there
        config = c.parse_assignments(config, self.settings, named(**self.own, **own))
        reward = config.reward
        by_source = {source: _verifier(name) for source, name in reward.by_source.items()}
        return c.with_values(
            config, {"reward": {"verifier": _verifier(reward.verifier), "by_source": by_source}}, "command line"
        )


def asks(*own: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb options in place of its parameter `asked`, which holds their values: `own`, --set and --config."""

    def of(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            values = {name: given.pop(name) for name in own}
            verb(asked=Asked(values, given.pop("settings") or [], given.pop("config")), **given)

        parameters: list[inspect.Parameter] = []  # what typer reads of the command
        for parameter in inspect.signature(verb, eval_str=True).parameters.values():
            names = (*own, "settings", "config") if parameter.name == "asked" else ()
            parameters += [parameter.replace(name=n, default=None, annotation=OPTION[n]) for n in names] or [parameter]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return of


def named(**given: Any) -> dict[str, dict[str, Any]]:
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


def _verifier(name: str) -> str:
    """A verifier as it is found from everywhere: the file of a function made absolute."""
    file, _, function = name.rpartition(":")
    return f"{Path(file).absolute()}:{function}" if file else name
