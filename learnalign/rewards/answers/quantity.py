"""A rational number as answers write it: decimal, fraction, mixed number or power of ten, with a unit.

This module does not do algebra: whatever is more than one number and a unit is None.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from learnalign.rewards.answers.units import MONEY_FACTORS, Unit, conflict, unit

_DIGITS = r"(?:\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?!\d)|\d+)"
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
_CURRENCY = re.compile(
    r"^([-+]?) ?(?:\\text ?\{ ?)?(US\\?\$|\\?\$|[€£¥₹]|Rs\.?|USD|EUR|GBP|INR)(?: ?\})?(?= ?[-+.\d\\])"
)
_REPEATED = re.compile(
    r"(?P<sign>[-+]?)(?P<before>\d*)\.(?P<fixed>\d*)\\(?:overline|bar|dot) ?\{?(?P<again>\d+)\}?", re.ASCII
)
_MONEY = {
    "$": "dollar", r"\$": "dollar", "USD": "dollar", "€": "euro", "EUR": "euro", "£": "sterling", "GBP": "sterling"
}  # fmt: skip
LONGEST_NUMBER = 4000
"""Digits of the longest number that is read: Python refuses to read more than 4,300."""


class Quantity(NamedTuple):
    """A number, its unit ("" for none), and for a decimal its significant `digits` and decimal `places`."""

    value: Fraction
    unit: str
    digits: int
    places: int


def quantity(text: str, letters: bool = False) -> Quantity | None:
    """A normalized answer as a rational number with its unit; None if it is anything else.

    `letters` says whether one letter may be a unit: see `units.unit`.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    if repeated := _repeated(text):
        return repeated
    money = _CURRENCY.match(text)
    stripped = money.group(1) + text[money.end() :].lstrip() if money else text
    match = _NUMBER.match(stripped)
    rest = stripped[match.end() :] if match else ""
    found = Unit("", MONEY_FACTORS[rest]) if money and rest in MONEY_FACTORS else unit(rest, letters)
    if match is None or found is None:
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
    value *= found.factor if part["sign"] != "-" else -found.factor
    name = found.name or (_MONEY.get(money.group(2).removeprefix("US") or "USD", "") if money else "")
    return Quantity(value, name, digits, places)


def _repeated(text: str) -> Quantity | None:
    r"""A decimal that repeats: 0.1\overline{6} is 1/6."""
    match = _REPEATED.fullmatch(text)
    if match is None:
        return None
    before, fixed, again = match["before"] or "0", match["fixed"], match["again"]
    value = Fraction(int(before + fixed + again) - int(before + fixed), 10 ** len(fixed) * (10 ** len(again) - 1))
    return Quantity(-value if match["sign"] == "-" else value, "", 0, 0)


def same_quantity(a: Quantity, b: Quantity) -> bool:
    """Whether two quantities count as equal; the rules are those of `exact`."""
    if (a.unit == "%") != (b.unit == "%"):
        share, bare = (a, b) if a.unit == "%" else (b, a)
        literal = share._replace(value=share.value / 100, places=share.places + 2)
        return _close(literal, bare) or (abs(bare.value) > 1 and _close(share, bare))
    if conflict(a.unit, b.unit):
        return False
    return _close(a, b)


def _rational(text: str) -> Fraction:
    return Fraction(re.sub(r"[, ]", "", text))


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
