r"""Left sides that only name what an answer is: one symbol, f(x), a segment AB, an angle, words, (x, y).

`x = 5` says 5; `2x = 5` does not. This module does not compare: see `structure`.
"""

from __future__ import annotations

import re

_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|theta|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi|omega"
    r"|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell)"
)
_LETTER = rf"(?:[A-Za-z]|{_GREEK}|\\(?:hat|bar|vec|tilde|overline|text) ?\{{[A-Za-z]{{1,3}}\}})"
_INDEX = r"(?:_(?:\w|\{[^{}]*\}))?"
_SYMBOL = rf"{_LETTER}{_INDEX}'*(?:\^\*)?"
_CALL = (
    rf"(?:(?:[fghpqrFGHPQRTVNuv]|{_GREEK}){_INDEX}'*(?:\^(?:-1|\{{-1\}}|\{{\(-1\)\}}))?\([^()=]*\)"
    rf"|\\(?:sin|cos|tan|cot|sec|csc|log|ln|det|arg)(?:\^\d)? ?(?:\(?{_SYMBOL}\)?|\\angle ?[A-Z]+|[A-Z]{{1,3}}))"
)
_GEOMETRY = (
    r"(?:[A-Z]{2,4}|m?\\angle ?[A-Z]{1,3}|\|[A-Z]{2}\||\\overline ?\{[A-Z]{2}\}|\\triangle ?[A-Z]{3}|\[[A-Z]{3,}\])"
)
_WORDS = r"(?:(?:\\text ?\{[^{}0-9]*\}|[A-Za-z]{3,})(?: [A-Za-z]+)*(?:[_ ]?\(?[A-Za-z]\)?)?)"
_ONE = rf"(?:{_SYMBOL}|{_CALL}|{_GEOMETRY}|{_WORDS})"
_LABEL = re.compile(rf"{_ONE}|\({_ONE}(?:,{_ONE})+\)|{_ONE}(?::{_ONE})+")
LONGEST_LABEL = 80
_SIDES = re.compile(r"(?<![<>!=\\])=(?!=)")


def is_label(text: str) -> bool:
    """Whether `text`, normalized, does no more than name a value."""
    return len(text) <= LONGEST_LABEL and _LABEL.fullmatch(text.strip()) is not None


def sides(text: str) -> list[str]:
    """The sides of an equation or a chain of them; one for any other text."""
    return [side.strip() for side in _SIDES.split(text)]


def unlabelled(text: str) -> list[str]:
    """The sides without those that name the value: before it ("x = y = 5") or behind it ("5 = x")."""
    parts = sides(text)
    while len(parts) > 1 and is_label(parts[0]):
        parts = parts[1:]
    while len(parts) > 1 and is_label(parts[-1]):
        parts = parts[:-1]
    return parts
