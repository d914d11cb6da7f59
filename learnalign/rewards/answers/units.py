"""What may stand after the number of an answer: a unit, a percent sign, a degree, a number base, a factor.

`unit("km/h")` is "kilometer/hour". A word that is no known unit is only a name ("apples"), dropped by `quantity`.
This module does not read numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NOT_UNITS = frozenset(
    {"pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "mod", "choose", "half"}
    | {"and", "or", "to", "over", "plus", "minus", "dozen", "hundred", "thousand", "million", "billion", "trillion"}
)
"""Words after a number that change it, so that they are no unit to be dropped."""
FACTORS = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "百": 100, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8,
}  # fmt: skip
MONEY_FACTORS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
"""Factors that a single letter means behind an amount of money: $1.5k."""

# Spellings of units that people do mix up with one another; any other word is taken as no more than a name.
_SPELLINGS = {
    "mm": "millimeter", "cm": "centimeter", "m": "meter", "km": "kilometer", "in": "inch", "inche": "inch",
    "ft": "foot", "feet": "foot", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram",
    "kg": "kilogram", "lb": "pound", "oz": "ounce", "ml": "milliliter", "l": "liter", "s": "second",
    "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "usd": "dollar", "metre": "meter",
    "centimetre": "centimeter", "kilometre": "kilometer", "millimetre": "millimeter", "litre": "liter",
    "millilitre": "milliliter", "eur": "euro", "gbp": "sterling", "buck": "dollar",
}  # fmt: skip
_WHOLE = {"mph": "mile/hour", "kph": "kilometer/hour", "kmph": "kilometer/hour", "fps": "foot/second"}
UNITS = frozenset(_SPELLINGS.values()) | {"day", "week", "month", "year", "cent"} | frozenset(_WHOLE.values())
_SIGNS = {
    r"\$": "dollar",
    "$": "dollar",
    "€": "euro",
    "£": "sterling",
    "¥": "",
    "₹": "",
    "¢": "cent",
    "元": "",
    "円": "",
}
_POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
_AFTER = {"squared", "cubed"}

_PERCENT = re.compile(r" ?(?:\\?%|\\text ?\{ ?(?:\\?%|percent) ?\}|percent|per cent|pct)", re.IGNORECASE)
_DEGREE = re.compile(r" ?\^\\circ ?(?:\\text ?\{ ?)?([CF]?)(?: ?\})?")
_DEGREE_WORDS = re.compile(r" ?deg(?:ree)?s?(?: (celsius|fahrenheit|c|f))?", re.IGNORECASE)
_BASE = re.compile(r"_ ?\{?(?:\\text ?\{)?(\w+)\}{0,2}", re.ASCII)
_HAN = re.compile(r" ?[\u4e00-\u9fff]{1,4}")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)*")
_TERM = re.compile(r"([A-Za-z][A-Za-z .-]*?)\.?(?: ?\^ ?\{?(-?\d)\}?)?")


class Unit(NamedTuple):
    """A canonical name, "" for none, and the factor that words like "million" mean."""

    name: str
    factor: int = 1


def unit(rest: str, letters: bool = False) -> Unit | None:
    """The unit that `rest`, what follows a number, spells; None if it is something else.

    `letters` says that one letter may be a unit too: "15 m" is 15 meters where the other answer has a unit.
    """
    if not rest:
        return Unit("")
    if _PERCENT.fullmatch(rest):
        return Unit("%")
    if match := _DEGREE.fullmatch(rest):
        return Unit("degree " + match.group(1))
    if rest.strip() in _SIGNS:
        return Unit(_SIGNS[rest.strip()])
    if match := _BASE.fullmatch(rest):
        return Unit("base " + match.group(1))
    plain = _TEXT.sub(r" \1", _FRACTION.sub(r" \1/\2", rest))
    plain = re.sub(r" +", " ", plain.replace("~", " ")).strip()
    if match := _DEGREE_WORDS.fullmatch(plain):
        return Unit("degree " + (match.group(1) or "")[:1].upper())
    return _scaled(plain) or _named(plain, rest, letters)


def _scaled(text: str) -> Unit | None:
    """A factor, alone or before the name of a unit."""
    word, _, more = text.partition(" ")
    if text[:1] in FACTORS:
        word, more = text[0], text[1:]
    factor = FACTORS.get(word.lower(), 0) or FACTORS.get(word.lower().removesuffix("s"), 0)
    if not factor:
        return None
    rest = unit(f" {more}") if more else Unit("")
    return rest and Unit(rest.name, factor * rest.factor)


def _named(text: str, raw: str, letters: bool) -> Unit | None:
    """Units by their names, with powers and quotients."""
    if _HAN.fullmatch(text):
        return Unit("")
    text = re.sub(r" per ", "/", text)
    terms = [part.strip() for part in text.split("/")]
    names = [_term(term) for term in terms]
    if len(terms) > 2 or None in names:
        return None
    if len(names) == 2:
        known = all(name and name.partition("^")[0] in UNITS for name in names)
        worded = " per " in raw or "\\text" in raw or len(terms[0]) > 1
        return Unit("/".join(name or "" for name in names)) if known or worded else None
    (name,) = names
    one_letter = re.fullmatch(r"[A-Za-z](?:\^.*)?", text.replace(" ", ""))
    if one_letter and not letters and not raw.lstrip().startswith(r"\text"):
        return None
    attached = raw[:1].isalpha()
    if attached and (name is None or name.partition("^")[0] not in UNITS) and not raw.isupper():
        return None  # 5xy is a product
    return Unit(_WHOLE.get(name or "", name or ""))


def _term(text: str) -> str | None:
    """One unit with its power; None for what is no name."""
    match = _TERM.fullmatch(text)
    if match is None:
        return None
    words = re.findall(r"[a-z]+", match.group(1).lower())
    if not words or NOT_UNITS.intersection(words):
        return None
    if "percent" in words:
        return "%"
    power = match.group(2) or next((_POWERS[word] for word in words if word in _POWERS), None)
    for word in words:
        singular = word[:-1] if word.endswith("s") and len(word) > 1 else word
        name = _SPELLINGS.get(word) or _SPELLINGS.get(singular) or _WHOLE.get(word) or singular
        if name in UNITS:
            return f"{name}^{power}" if power else name
    return " ".join(words)


def conflict(one: str, other: str) -> bool:
    """Whether two units cannot be those of the same answer."""
    if not one or not other or one == other:
        return False
    if one.startswith("degree") and other.startswith("degree"):
        return "degree " not in (one, other)
    return all(re.split(r"[\^/]", name)[0] in UNITS or name.startswith("base ") or "/" in name for name in (one, other))
