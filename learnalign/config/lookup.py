"""Questions about settings by their names: what one takes, its value, a section as a dictionary."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from learnalign.config.whole import Config


def choices(key: str) -> tuple[str, ...]:
    """The names that a setting such as `select.strategy` takes; empty where it takes more than names."""
    section, name = key.split(".")
    hint = get_type_hints(get_type_hints(Config)[section])[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def get(config: Config, key: str) -> Any:
    """The value at a dotted key such as `rollout.seed`."""
    section, name, *entry = key.split(".", 2)
    value = getattr(getattr(config, section), name)
    return value[entry[0]] if entry and entry[0] in value else value


def section_dict(config: Config, section: str) -> dict[str, Any]:
    """One section as a plain dictionary, for digests and manifests."""
    part = getattr(config, section)
    return {f.name: getattr(part, f.name) for f in fields(part)}
