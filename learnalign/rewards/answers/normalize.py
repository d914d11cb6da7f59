"""Answers without differences of layout: Unicode look-alikes, LaTeX spacing and spellings, math delimiters.

This module does not change what an answer says and does not read numbers: see `quantity`.
"""
# ruff: noqa: RUF001 (look-alike characters are what this module is about)

from __future__ import annotations

import re
import unicodedata

_DASHES = "−‐‑‒–—﹣－"
_SPACES = "\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000"
_INVISIBLE = "\u200b\u2060\ufeff"
_CHARACTERS = {
    **dict.fromkeys(_DASHES, "-"), **dict.fromkeys(_SPACES, " "), **dict.fromkeys(_INVISIBLE, ""),
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "±": r"\pm ",
    "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in ",
    "％": "%", "，": ",", "．": ".", "（": "(", "）": ")",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    **{sign: f"^{power}" for power, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|big|Big|bigl|bigr|limits)(?![A-Za-z])|(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~|\s", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\(?:textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|operatorname)\s*\{", r"\\text{"),
        (r"\{,\}", ","),
        (r"\^\{\\circ\}|\^\s*\\circ|\\degree", r"^\\circ"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r" +", " "),
    )
)
_LONE_SPACES = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def normalize(text: str) -> str:
    """`text` without differences of layout; the space between two words or digits stays."""
    out = []
    for character in text:
        digit = unicodedata.decimal(character, None)
        out.append(str(digit) if digit is not None else _CHARACTERS.get(character, character))
    text = "".join(out)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip(" *`").rstrip(".,;: ")
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip(" .")
    return _LONE_SPACES.sub("", text)


def plain_text(text: str) -> str:
    """A normalized answer with `\\text` unwrapped and without parentheses around one letter: (C) is C."""
    text = _LONE_SPACES.sub("", _TEXT.sub(r"\1", text)).strip()
    return re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
