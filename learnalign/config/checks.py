"""A setting's bounds, and the table that checks each of its settings when it is made.

The type of a setting says which values it takes (`Literal` for names), its metadata the bounds. Settings are not
compared with each other here (see `whole`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from learnalign.errors import ConfigError


def bounded(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    why: str = "",
) -> Any:
    """A setting with bounds; `why` is what an error adds after them."""
    return field(default=default, metadata={"above": above, "at_least": at_least, "at_most": at_most, "why": why})


class Section:
    """One table of the configuration, checked when it is made."""

    def __post_init__(self) -> None:
        _check(type(self).__name__.removesuffix("Config").lower(), self)


def _check(section: str, settings: Any) -> None:
    """Raise `ConfigError` for the first setting of a section that its type or its bounds do not allow."""
    hints = get_type_hints(type(settings))
    for one in fields(settings):
        key, value, bounds = f"{section}.{one.name}", getattr(settings, one.name), one.metadata
        allowed = get_args(hints[one.name]) if get_origin(hints[one.name]) is Literal else ()
        if allowed and value not in allowed:
            raise ConfigError(f"{key} must be one of {', '.join(allowed)}, found {value!r}")
        if bounds and not _within(value, bounds):
            raise ConfigError(f"{key} must be {_rule(bounds)}, found {value}")


def _within(value: float, bounds: Mapping[str, Any]) -> bool:
    above, at_least, at_most = bounds["above"], bounds["at_least"], bounds["at_most"]
    low = (above is None or value > above) and (at_least is None or value >= at_least)  # NaN is never within
    return bool(math.isfinite(value) and low and (at_most is None or value <= at_most))


def _rule(bounds: Mapping[str, Any]) -> str:
    above, at_least, at_most, why = (bounds[name] for name in ("above", "at_least", "at_most", "why"))
    if above == -math.inf:
        return "a finite number"
    if above is not None:
        rule = f"greater than {above}" + ("" if at_most is None else f" and at most {at_most}")
    else:
        rule = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    return f"{rule} ({why})" if why else rule
