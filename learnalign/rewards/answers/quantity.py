"""A rational number as answers write it: decimal, fraction, mixed number or power of ten, with a unit.

This module does not do algebra: whatever is more than one number and a unit is None.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[-+]? ?{_DECIMAL}"
_FRACTION = rf"\\frac ?\{{ ?(?P<top>{_SIGNED}) ?\}} ?\{{ ?(?P<bottom>{_SIGNED}) ?\}}"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?) ?(?:(?:(?P<whole>\d+) ?)?{_FRACTION}"
    rf"|(?:(?P<whole2>\d+) )?(?P<top2>{_DECIMAL}) ?/ ?(?P<bottom2>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<power>[-+]?\d{{1,3}})(?![0-9A-Za-z])"
    rf"| ?(?:\\times|\\cdot|\*) ?10 ?\^ ?\{{?(?P<power2>[-+]?\d{{1,3}})\}}?)?)",
    re.ASCII,
)
_CURRENCY = re.compile(r"^([-+]?) ?(?:\\?\$|[€£¥])(?= ?[-+.\d\\])")
_PERCENT = re.compile(r" ?(?:\\?%|\\text ?\{ ?(?:\\?%|percent) ?\}|percent|per cent|pct)", re.IGNORECASE)
_DEGREE = re.compile(r" ?\^\\circ ?(?:\\text ?\{ ?)?([CF]?)(?: ?\})?")
_BASE = re.compile(r"_ ?\{?(?:\\text ?\{)?(\w+)\}{0,2}", re.ASCII)
_POWER = r"(?: ?\^ ?\{?(\d)\}?)?"
_NAMED = re.compile(rf"(?: ?\\text ?\{{([^{{}}0-9]*)\}}| ([A-Za-z]{{2,}}(?:[ -][A-Za-z]+)*)){_POWER}")
_ATTACHED = re.compile(rf"([A-Za-z]{{2,}}){_POWER}")

NOT_UNITS = frozenset(
    {"pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "mod", "choose", "half"}
    | {"and", "or", "to", "over", "times", "plus", "minus"}
    | {"dozen", "hundred", "thousand", "million", "billion", "trillion"}
)
"""Words after a number that change it, so that they are no unit to be dropped."""

# Spellings of units that people do mix up with one another; any other word is taken as no more than a name.
_SPELLINGS = {
    "mm": "millimeter", "cm": "centimeter", "m": "meter", "km": "kilometer", "in": "inch", "inche": "inch",
    "ft": "foot", "feet": "foot", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram",
    "kg": "kilogram", "lb": "pound", "oz": "ounce", "ml": "milliliter", "l": "liter", "s": "second",
    "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "usd": "dollar", "metre": "meter",
    "centimetre": "centimeter", "kilometre": "kilometer", "millimetre": "millimeter", "litre": "liter",
    "millilitre": "milliliter",
}  # fmt: skip
_UNITS = frozenset(_SPELLINGS.values()) | {"day", "week", "month", "year", "cent"}


class Quantity(NamedTuple):
    """A number, its unit ("" for none), and for a decimal its significant `digits` and decimal `places`."""

    value: Fraction
    unit: str
    digits: int
    places: int


def quantity(text: str) -> Quantity | None:
    """A normalized answer as a rational number with its unit; None if it is anything else."""
    stripped = _CURRENCY.sub(r"\1", text)
    match = _NUMBER.match(stripped)
    unit = _unit(stripped[match.end() :]) if match else None
    if match is None or unit is None:
        return None
    part = match.groupdict()
    decimal = part["decimal"]
    if decimal is not None:
        value = _rational(decimal) * Fraction(10) ** int(part["power"] or part["power2"] or 0)
    else:
        bottom = _rational(part["bottom"] or part["bottom2"])
        if bottom == 0:
            return None
        value = _rational(part["top"] or part["top2"]) / bottom + int(part["whole"] or part["whole2"] or 0)
    places = len(decimal.partition(".")[2]) if decimal else 0
    digits = len(re.sub(r"\D", "", decimal or "").lstrip("0")) if places else 0
    if part["sign"] == "-":
        value = -value
    return Quantity(value, "dollar" if stripped != text and not unit else unit, digits, places)


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Whether two quantities count as equal; the rules are those of `exact`."""
    if (a.unit == "%") != (b.unit == "%"):
        share, bare = (a, b) if a.unit == "%" else (b, a)
        literal = share._replace(value=share.value / 100, places=share.places + 2)
        return _close(literal, bare) or (abs(bare.value) > 1 and _close(share, bare))
    units = {a.unit, b.unit} - {""}
    if len(units) == 2 and all(unit.partition("^")[0] in _UNITS or unit.startswith("base ") for unit in units):
        return False
    return _close(a, b)


def _rational(text: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", text))


def _unit(rest: str) -> str | None:
    """Name of the unit that `rest` spells, "" for none, None if `rest` is something else."""
    if not rest:
        return ""
    if _PERCENT.fullmatch(rest):
        return "%"
    if match := _DEGREE.fullmatch(rest):
        return "degree " + match.group(1)
    if match := _BASE.fullmatch(rest):
        return "base " + match.group(1)
    if (match := _ATTACHED.fullmatch(rest)) and match.group(1).lower() in _SPELLINGS:
        return _with_power(_SPELLINGS[match.group(1).lower()], match.group(2))
    if match := _NAMED.fullmatch(rest):
        words = re.findall(r"[a-z]+", (match.group(1) or match.group(2) or "").lower())
        name = _unit_name(words)
        powers = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
        power = match.group(3) or next((powers[word] for word in words if word in powers), None)
        return _with_power(name, power) if name in _UNITS else name
    return None


def _with_power(name: str, power: str | None) -> str:
    return f"{name}^{power}" if power else name


def _unit_name(words: list[str]) -> str | None:
    if NOT_UNITS.intersection(words):
        return None
    if "percent" in words:
        return "%"
    for word in words:
        singular = word[:-1] if word.endswith("s") and len(word) > 1 else word
        name = _SPELLINGS.get(word) or _SPELLINGS.get(singular) or singular
        if name in _UNITS:
            return name
    return " ".join(words)


def _close(a: Quantity, b: Quantity) -> bool:
    """Equal, or one is a fraction whose decimal does not end and the other that decimal to >= 6 digits."""
    if a.value == b.value:
        return True
    for exact, rounded in ((a, b), (b, a)):
        if not exact.digits and rounded.digits >= 6 and not _ends(exact.value):
            unit = Fraction(1, 10**rounded.places)
            cut = abs(exact.value) - abs(rounded.value)  # at most half a unit off, or cut toward zero
            return exact.value * rounded.value > 0 and -unit / 2 <= cut < unit
    return False


def _ends(value: Fraction) -> bool:
    """Whether the decimal of `value` ends: its denominator has no prime but 2 and 5."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1
