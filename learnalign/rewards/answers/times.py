"""Times of day and measures of several units: 2:30 p.m., 2 hours 30 minutes, 5 feet 6 inches.

This module does not read single quantities: see `quantity`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from learnalign.rewards.answers.normalize import plain_text
from learnalign.rewards.answers.quantity import quantity

_CLOCK = re.compile(r"(\d{1,2})(?::(\d{1,2}))?(?::(\d{2}))? ?(?:([ap])\.? ?m\.?)?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}([-/])\d{1,2}\1\d{1,2}|\d{1,2}([-/])\d{1,2}\2\d{4}")
_PIECE = re.compile(r"(?:,? ?and |, ?| )?(\d[\d.,]*(?:/\d+)? ?[A-Za-z]+)")
_SIZES = {
    "second": ("time", 1), "minute": ("time", 60), "hour": ("time", 3600), "day": ("time", 86400),
    "week": ("time", 604800), "inch": ("foot", 1), "foot": ("foot", 12), "yard": ("foot", 36),
    "ounce": ("pound", 1), "pound": ("pound", 16), "cent": ("money", 1), "dollar": ("money", 100),
    "millimeter": ("meter", 1), "centimeter": ("meter", 10), "meter": ("meter", 1000), "kilometer": ("meter", 10**6),
    "gram": ("gram", 1), "kilogram": ("gram", 1000),
}  # fmt: skip
LONGEST = 80


def same_time(one: str, other: str) -> bool | None:
    """Whether two times of day are the same; None where one of them is none, or both may be ratios."""
    a, b = (_CLOCK.fullmatch(plain_text(text)) for text in (one, other))
    if not a or not b or not (a.group(2) or a.group(4)) or not (b.group(2) or b.group(4)):
        return None
    if not (a.group(4) or b.group(4) or len(a.group(2) + b.group(2)) == 4):
        return None
    first, second = _seconds(a), _seconds(b)
    if bool(a.group(4)) == bool(b.group(4)):
        return first == second
    bare = b if a.group(4) else a  # it may mean either half of the day, unless it counts beyond noon
    return first == second or (int(bare.group(1)) < 13 and (first - second) % (12 * 3600) == 0)


def same_date(one: str, other: str) -> bool | None:
    """Whether two dates in digits are the same, in the same order of their parts; None where one of them is none."""
    if not _DATE.fullmatch(one) or not _DATE.fullmatch(other):
        return None
    first, second = ([int(part) for part in re.findall(r"\d+", text)] for text in (one, other))
    return first == second


def same_measure(one: str, other: str) -> bool | None:
    """Whether two measures are equal of which one has several units; None where that is not so."""
    a, b = _measure(one), _measure(other)
    if a is None or b is None or max(a[2], b[2]) < 2:
        return None
    return a[:2] == b[:2]


def _seconds(clock: re.Match[str]) -> int:
    """Seconds since midnight."""
    hour, minute, second, half = clock.groups()
    hours = int(hour) % 12 + (12 if half.lower() == "p" else 0) if half else int(hour)
    return hours * 3600 + int(minute or 0) * 60 + int(second or 0)


def _measure(text: str) -> tuple[str, Fraction, int] | None:
    """(what is measured, how much, in how many units)."""
    text = plain_text(text)
    if len(text) > LONGEST:
        return None
    pieces, at = [], 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            return None
        pieces.append(match.group(1))
        at = match.end()
    amount, kinds = Fraction(0), set()
    for piece in pieces:
        read = quantity(piece, letters=True)
        if read is None or read.unit not in _SIZES:
            return None
        kind, size = _SIZES[read.unit]
        kinds.add(kind)
        amount += read.value * size
    return (kinds.pop(), amount, len(pieces)) if len(kinds) == 1 else None
