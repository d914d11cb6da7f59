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
    "％": "%", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "，": ",", "；": ";", "：": ":", "．": ".", "（": "(", "）": ")",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    **{sign: f"^{power}" for power, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r",\\!\s*", ","),
        (r"\\(?:left|right|displaystyle|big|Big|bigl|bigr|limits)(?![A-Za-z])|(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~|\s", " "),
        (r"\\(?:text|)color\s*\{\w+\}\s*|\\(?:bf|rm|it)(?![A-Za-z])\s*", ""),
        (r"<\s*=", r"\\le "),
        (r">\s*=", r"\\ge "),
        (r"(?<![<>!=\\])==(?!=)", "="),
        (r"\\underline\s*\{([^{}]*)\}", r"\1"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\[dt]?binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
        (r"\{\s*(\w+)\s*\\choose\s*(\w+)\s*\}", r"\\binom{\1}{\2}"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))", r"\\sqrt{\1\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])(?!\d)", r"\\sqrt{\1}"),
        (r"^\s*\^(\d+)\s*/\s*_(\d+)\s*$", r"\1/\2"),
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
_LONE_SPACES = re.compile(r"(?<![0-9A-Za-z])(?<!\d,) |(?<=\d,) (?!\d)| (?![0-9A-Za-z,])|(?<!\d,) (?![0-9A-Za-z])")
_LEAD = re.compile(
    r"^(\\text\s*\{)?\s*(?:(?:so |thus |therefore )?(?:the )?(?:final |correct )?answer(?: is\b|\s*[:=])[: ]*"
    r"|\\text\s*\{\s*[A-Za-z][A-Za-z ]*[:=]\s*\}"
    r"|(?:approximately|approx\.?|about|around|roughly)(?![A-Za-z]))\s*|^\\approx\s*",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"^(?:negative|minus) (?=\d)", re.IGNORECASE)
_ALL_TEXT = re.compile(r"^\\text ?\{([^{}\\]*(?:,| and | or )[^{}\\]*)\}$")
_BRACES = re.compile(r"^\{([^{}]*)\}$")
_EMPTY_TEXT = re.compile(r"^\\text\s*\{\s*\}")
_NAMES = {
    **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions", "empty set",
                     "the empty set", r"\{\}"), r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "the real numbers", "all real x", "r\\in\\mathbb{r}",
                     r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty,+\infty)"), r"\mathbb{R}"),
    "+\\infty": "\\infty",
}  # fmt: skip
"""Answers that have a name and a sign."""
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
    text = text.strip(' *`"').rstrip(".,;: 。")
    for opening, closing in _DELIMITERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip(" .")
    text = _wrapping(_LONE_SPACES.sub("", text))
    return _NAMES.get(plain_text(text).casefold(), text)


def _wrapping(text: str) -> str:
    """Without words that only introduce the answer, and braces around all of it."""
    for _ in range(3):
        stripped = _LEAD.sub(lambda match: r"\text{" if match.group(1) else "", text, count=1)
        stripped = _BRACES.sub(r"\1", _EMPTY_TEXT.sub("", stripped, count=1)).strip()
        stripped = _NEGATIVE.sub("-", _ALL_TEXT.sub(r"\1", stripped))
        if stripped == text or not stripped:
            break
        text = stripped
    return text


def plain_text(text: str) -> str:
    """A normalized answer with `\\text` unwrapped and without parentheses around one letter: (C) is C."""
    text = _LONE_SPACES.sub("", _TEXT.sub(r"\1", text)).strip()
    return re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
