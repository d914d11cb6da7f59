r"""Compares two expressions as mathematics with math-verify and SymPy. For worker processes alone: it may hang.

What math-verify would call equal is confirmed where it rounds: exact numbers have to agree to forty digits, rounding is
for answers with a decimal point (six significant digits, or all that are written), and two equations need sides that
are proportional. Numbers that it fails to see through, e^{i\pi/3}, are compared by their digits. This module does not
take lists apart: see `structure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

DIGITS = 50
"""Significant digits to which numbers are evaluated."""
MOST_DIGITS = 2000
"""Digits with which a difference is evaluated at most, where most of them cancel."""
_DECIMAL = re.compile(r"\d\.\d|(?<!\d)\.\d")
_NUMBER = re.compile(r"-?(\d*)\.(\d+)")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$|\$", ""),
        (r"(?<![\\A-Za-z])exp ?\(([^()]*)\)", r"e^{\1}"),
        (r"(?<![\\A-Za-z])sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])(pi|sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan)(?![A-Za-z])", r"\\\1 "),
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\\?%", ""),
    )
)
Compare = Callable[[str, str], bool]


def comparison() -> Compare:
    """The function that compares. Raises `ImportError` without math-verify."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Eq

    # Units and boxes are gone by now; math-verify's own unit list would turn the product 5t into 5.
    target = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        )
    )

    def read(text: str) -> list[Any]:
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        found: list[Any] = parse(f"${text}$", [target], fallback_mode="no_fallback", parsing_timeout=None)
        return found

    def same(gold: str, candidate: str) -> bool:
        if _letters(gold) != _letters(candidate) and _letters(gold, fold=True) == _letters(candidate, fold=True):
            return False  # X is not x
        expected, found = read(gold), read(candidate)
        if not expected or not found:
            return False
        one, other = _complex(expected[0]), _complex(found[0])
        if _is_number(one) and _is_number(other):
            return _same_number(one, other, gold, candidate)
        if isinstance(one, Eq) and isinstance(other, Eq):
            return _proportional(one, other)
        exact = not _DECIMAL.search(gold + " " + candidate)
        return bool(
            verify(
                expected,
                found,
                float_rounding=DIGITS if exact else 6,
                numeric_precision=DIGITS if exact else 15,
                allow_set_relation_comp=True,
                timeout_seconds=None,
            )
        )

    return same


def _letters(text: str, fold: bool = False) -> set[str]:
    """The letters of an expression, beside commands."""
    found = set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))
    return {letter.lower() for letter in found} if fold else found


def _complex(expression: Any) -> Any:
    """With the imaginary unit where `i` is the only letter."""
    from sympy import I

    letters: set[Any] = getattr(expression, "free_symbols", set())
    return expression.subs(next(iter(letters)), I) if {str(letter) for letter in letters} == {"i"} else expression


def _is_number(expression: Any) -> bool:
    return bool(getattr(expression, "is_number", False))


def _same_number(one: Any, other: Any, gold: str, candidate: str) -> bool:
    """Two numbers by their digits: all of them, or as many as a decimal has."""
    a, b = one.evalf(DIGITS), other.evalf(DIGITS)
    if not (a.is_finite and b.is_finite):
        return bool(a == b and a.is_extended_real)  # not 1/0
    difference = one.doit() - other.doit()
    if difference == 0:
        return True
    if difference.is_Rational and not _DECIMAL.search(gold + " " + candidate):
        return False
    error = abs(difference.evalf(DIGITS, maxn=MOST_DIGITS))
    largest = max(abs(a), abs(b))
    for decimal, exact in ((candidate, gold), (gold, candidate)):
        if _DECIMAL.search(decimal) and not _DECIMAL.search(exact):
            return bool(error <= _allowance(decimal, largest))
    relative = 1e-6 if _DECIMAL.search(gold) else 10.0 ** (10 - DIGITS)
    return bool(error <= relative * largest)


def _allowance(decimal: str, size: Any) -> Any:
    """What a written decimal may be off: a unit of its last place if it has six significant digits, else nothing."""
    match = _NUMBER.fullmatch(decimal)
    if match is None:
        return 1e-6 * size
    whole, places = match.groups()
    if len((whole + places).lstrip("0")) < 6:
        return size * 10.0 ** (10 - DIGITS)
    return 10.0 ** -len(places)


def _proportional(one: Any, other: Any) -> bool:
    """Whether two equations say the same: what is to be zero is the same but for a factor."""
    from sympy import simplify

    a, b = (simplify(equation.lhs - equation.rhs) for equation in (one, other))
    if a == 0 or b == 0:
        return bool(a == b)
    factor = simplify(a / b)
    return bool(factor.is_number and factor != 0 and factor.is_finite)
