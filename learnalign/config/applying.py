"""Settings given as a nested dictionary, as TOML and the command line give them: each in its own type, then applied.

An unknown section or key, or a value of another type, is a `ConfigError` that says where it was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_origin, get_type_hints

from learnalign.config.whole import Config
from learnalign.errors import ConfigError


def with_values(config: Config, data: dict[str, Any], where: str) -> Config:
    """A copy of `config` with the settings of a nested dictionary; `where` names the origin in errors."""
    return applied(config, clean(data, where))


def applied(config: Config, data: Mapping[str, Mapping[str, Any]]) -> Config:
    """All at once, so that settings that must fit each other are compared when all of them are there."""
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in data.items()})


def clean(data: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The settings of a nested dictionary in their own types. Raises `ConfigError` for one that is not known."""
    hints = get_type_hints(Config)
    sections: dict[str, dict[str, Any]] = {}
    for section, values in data.items():
        if section not in hints:
            raise ConfigError(f"{where}: unknown section [{section}]; known: {', '.join(hints)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: [{section}] must be a table, found {values!r}")
        sections[section] = _clean_section(hints[section], section, values, where)
    return sections


def _clean_section(kind: Any, section: str, values: dict[str, Any], where: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    own: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{where}: unknown key {section}.{name}; known: {', '.join(hints)}")
        expected = hints[name]
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if expected == str | tuple[str, ...]:
            own[name] = _one_or_several(value, f"{where}: {section}.{name}")
            continue
        if expected == dict[str, str]:
            own[name] = _texts_by_name(value, f"{where}: {section}.{name}")
            continue
        if type(value) is not (str if get_origin(expected) is Literal else expected):
            kind = "text" if get_origin(expected) is Literal else expected.__name__
            raise ConfigError(f"{where}: {section}.{name} must be {kind}, found {type(value).__name__} {value!r}")
        own[name] = value
    return own


def _one_or_several(value: Any, where: str) -> str | tuple[str, ...]:
    """A text, or a tuple of several. Raises `ConfigError`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{where} must be text or a list of texts, found {value!r}")
    return value[0] if len(value) == 1 else tuple(value)


def _texts_by_name(value: Any, where: str) -> dict[str, str]:
    """A table of texts. Raises `ConfigError`."""
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ConfigError(f"{where} must be a table of texts, found {value!r}")
    return dict(value)
