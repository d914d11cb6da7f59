"""Settings as the command line gives them: `section.key=value`, once or several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from learnalign.config.applying import applied, clean
from learnalign.config.whole import Config
from learnalign.errors import ConfigError


def parse_assignment(config: Config, assignment: str) -> Config:
    """Apply one `section.key=value` of the command line; the value is read as the setting's own type."""
    return parse_assignments(config, [assignment])


def parse_assignments(
    config: Config, assignments: Sequence[str], named: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """Apply several, later ones last, and then the settings of options with a name; in any order the same.

    Settings that must fit each other, such as `rollout.engine=server` and `rollout.base_urls`, are compared once all
    are applied. Raises `ConfigError`.
    """
    given: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        for section, values in clean(_assigned(assignment), f"--set {assignment}").items():
            own = given.setdefault(section, {})
            for name, value in values.items():  # of a table, the entry that is named
                before = own.get(name, getattr(getattr(config, section), name))
                own[name] = {**before, **value} if isinstance(value, dict) else value
    for section, values in clean(named or {}, "command line").items():
        given.setdefault(section, {}).update(values)
    return applied(config, given)


def _assigned(assignment: str) -> dict[str, dict[str, Any]]:
    """A `section.key=value` as a nested dictionary."""
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot):
        raise ConfigError(f"--set expects section.key=value, found {assignment!r}")
    sections = get_type_hints(Config)
    hints = get_type_hints(sections[section]) if section in sections else {}
    table, _, entry = name.partition(".")
    if entry and hints.get(table) == dict[str, str]:
        return {section: {table: {entry: text}}}
    kind = hints.get(name, str)
    value: Any = text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"--set {key.strip()} must be true or false, found {text!r}")
        value = text == "true"
    elif kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ConfigError(f"--set {key.strip()} must be {kind.__name__}, found {text!r}") from None
    return {section: {name: value}}
