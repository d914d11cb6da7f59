"""Values as JSON. Plain ones cross as they are; everything else stays where it is and goes by number.

Subclasses of plain types cross as the plain type, so that no operator of theirs takes part in a comparison. This module
executes nothing that it reads: functions and classes of the standard library are found by name in `SHARED`.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
from collections.abc import Callable
from typing import Any

DEEPEST = 400
"""Levels of lists within lists that cross."""
SCALARS = {type(None), bool, int, float, str}
SHARED = ("builtins", "collections", "decimal", "fractions", "functools", "itertools", "math", "operator", "string")
"""Modules whose functions and classes are the same on both sides, by name."""
_DICTS = {"Counter": collections.Counter, "OrderedDict": collections.OrderedDict}
_TIMES: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
_KINDS: tuple[tuple[type, str], ...] = (
    (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"), (collections.deque, "deque"), (bytes, "bytes"),
    (bytearray, "bytearray"), (complex, "complex"), (range, "range"), (decimal.Decimal, "decimal"),
    (fractions.Fraction, "fraction"), (datetime.datetime, "datetime"), (datetime.date, "date"),
    (datetime.time, "time"), (datetime.timedelta, "timedelta"),
)  # fmt: skip
_BASES: tuple[tuple[type, Any], ...] = ((int, int.__int__), (float, float.__float__), (str, str.__str__))
Plain = Any
"""What JSON holds."""


class Unknown(Exception):
    """JSON that stands for no value."""


def encode(value: Any, of: Callable[[Any], Plain], depth: int = 0) -> Plain:
    """`value` as JSON; `of(object)` encodes what is not plain."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if depth > DEEPEST:
        raise RecursionError(f"values nested deeper than {DEEPEST}")
    if isinstance(value, list):
        if all(type(item) in SCALARS for item in value):
            return list(value)
        return [encode(item, of, depth + 1) for item in value]
    if isinstance(value, dict):
        pairs = [[encode(key, of, depth + 1), encode(item, of, depth + 1)] for key, item in value.items()]
        return {"dict": pairs, "kind": next((name for name, own in _DICTS.items() if isinstance(value, own)), "")}
    for plain, convert in _BASES:
        if isinstance(value, plain):
            return convert(value)
    for own, name in _KINDS:
        if isinstance(value, own):
            return _encode_kind(name, value, of, depth)
    return of(value)


def _encode_kind(name: str, value: Any, of: Callable[[Any], Plain], depth: int) -> Plain:
    match name:
        case "tuple" if hasattr(value, "_fields"):
            fields = [str(field) for field in value._fields]
            return {"record": [type(value).__name__, fields, [encode(item, of, depth + 1) for item in value]]}
        case "tuple" | "set" | "frozenset" | "deque":
            return {name: [encode(item, of, depth + 1) for item in value]}
        case "bytes" | "bytearray":
            return {name: bytes(value).decode("latin-1")}
        case "complex":
            return {name: [value.real, value.imag]}
        case "range":
            return {name: [value.start, value.stop, value.step]}
        case "decimal" | "fraction":
            return {name: str(value)}
        case "timedelta":
            return {name: [value.days, value.seconds, value.microseconds]}
    return {name: value.isoformat()}


def decode(plain: Plain, of: Callable[[Plain], Any]) -> Any:
    """The value that `plain` stands for; `of` finds what is not plain. Raises `Unknown`."""
    if isinstance(plain, list):
        return [decode(item, of) if isinstance(item, list | dict) else item for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "dict" in plain:
        pairs = {decode(key, of): decode(item, of) for key, item in plain["dict"]}
        return _DICTS.get(plain["kind"], dict)(pairs)
    if "named" in plain:
        return _found(plain["named"])
    if len(plain) == 1:
        ((name, held),) = plain.items()
        found = _decode_kind(name, held, of)
        if found is not None:
            return found
    return of(plain)


def _decode_kind(name: str, held: Plain, of: Callable[[Plain], Any]) -> Any:
    match name:
        case "record":
            kind, fields, items = held
            return collections.namedtuple(kind, fields)(*[decode(item, of) for item in items])
        case "tuple" | "set" | "frozenset" | "deque":
            make: Any = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}[name]
            return make(decode(item, of) for item in held)
        case "bytes":
            return held.encode("latin-1")
        case "bytearray":
            return bytearray(held.encode("latin-1"))
        case "complex":
            return complex(*held)
        case "range":
            return range(*held)
        case "decimal":
            return decimal.Decimal(held)
        case "fraction":
            return fractions.Fraction(held)
        case "timedelta":
            return datetime.timedelta(*held)
        case "datetime" | "date" | "time":
            return _TIMES[name].fromisoformat(held)
    return None


def named(value: Any) -> Plain:
    """A function or class that both sides find by name; None for any other value."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(value, type) and not callable(value):
        return None
    if module in SHARED and isinstance(name, str) and getattr(importlib.import_module(module), name, None) is value:
        return {"named": [module, name]}
    return None


def _found(named: Plain) -> Any:
    module, name = named
    if module not in SHARED or not isinstance(name, str) or name.startswith("_") or hasattr(_Never, name):
        raise Unknown(f"no value is called {module}.{name}")
    return getattr(importlib.import_module(module) if module != "builtins" else builtins, name)


class _Never:
    """Functions that run text or end processes: not to be had by name."""

    exec = eval = compile = open = input = exit = quit = breakpoint = __import__ = None
