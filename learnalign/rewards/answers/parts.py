r"""Answers of several parts: lists, sets, tuples and intervals, taken apart at the commas that separate.

A comma before a space, or "and", separates parts: "81, 256" are two numbers and never 81256, while 81,256 may be one
number or two. `\pm` gives two parts. This module does not compare: see `structure`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CLOSES = {"(": ")", "[": "]", r"\{": r"\}"}
_TEXT_TAIL = re.compile(r"\\text ?\{([^{}]*?)[ ,]+(?:and|or) ?\}")
_AND = re.compile(
    r" ?[,;]? ?(?:\\text ?\{ ?,? ?(?:and|or) ?\}|(?<![A-Za-z\\{])(?:and|or)(?![A-Za-z])"
    r"|\\(?:l?and|wedge|lor|vee)(?![A-Za-z])) ?"
)
_TOKEN = re.compile(r"\\[{}]|\\[A-Za-z]+|\\.|[(\[{}\])]|[,;] ?|\\\\|.", re.DOTALL)
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")


class Parts(NamedTuple):
    """What an answer is made of; `opening` and `closing` are its brackets, "" for none."""

    elements: list[str]
    opening: str = ""
    closing: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of the elements counts, so that brackets do too."""
        return self.opening in ("(", "[")

    @property
    def interval(self) -> bool:
        """Whether its brackets may be those of an interval."""
        return self.ordered and len(self.elements) == 2


def parts(text: str) -> Parts:
    """The parts of a normalized answer, in order; one for an answer that has no more."""
    opening, closing, inside = _brackets(text)
    elements = _elements(inside)
    if not opening or (len(elements) > 1 or opening == r"\{"):
        return Parts(_signs(elements) if opening in ("", r"\{") else elements, opening, closing)
    if opening == "(" and closing == ")":
        return parts(inside)
    return Parts([inside], opening, closing)


def _brackets(text: str) -> tuple[str, str, str]:
    """The brackets around all of `text`, and what is in them."""
    opening = next((mark for mark in _CLOSES if text.startswith(mark)), "")
    if not opening:
        return "", "", text
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        depth += (mark in ("(", "[", r"\{")) - (mark in (")", "]", r"\}"))
        if depth == 0:
            matches = token.end() == len(text) and (opening == r"\{") == (mark == r"\}")
            return (opening, mark, text[len(opening) : token.start()]) if matches else ("", "", text)
    return "", "", text


def _elements(text: str) -> list[str]:
    """`text` split where it separates, outside of all brackets."""
    text = _AND.sub(", ", _TEXT_TAIL.sub(r"\\text{\1}, ", text))
    pieces: list[tuple[str, str]] = []  # (text, the mark that ends it)
    depth, start = 0, 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        depth += (mark in ("(", "[", "{", r"\{")) - (mark in (")", "]", "}", r"\}"))
        if depth <= 0 and mark[0] in ",;":
            pieces.append((text[start : token.start()], mark))
            start = token.end()
    pieces.append((text[start:], ""))
    if any(mark.startswith(";") for _, mark in pieces):
        return _joined(pieces, ",")
    spaced = any(mark == ", " for _, mark in pieces)
    return _rejoined_thousands(pieces) if spaced else [piece.strip() for piece, _ in pieces if piece.strip()]


def _joined(pieces: list[tuple[str, str]], comma: str) -> list[str]:
    """Pieces that a comma separates put together again, where semicolons separate the elements."""
    whole = "".join(piece + ("\0" if mark.startswith(";") else mark) for piece, mark in pieces)
    return [element.strip() for element in whole.split("\0") if element.strip(f" {comma}")]


def _rejoined_thousands(pieces: list[tuple[str, str]]) -> list[str]:
    """Numbers in groups of three put together again, where a comma before a space separates."""
    elements: list[str] = []
    current = ""
    for piece, mark in pieces:
        current += piece
        if mark == "," and re.search(r"(?<!\d)\d{1,3}(?:,\d{3})*$", current):
            current += ","
            continue
        elements += _whole_numbers(current)
        current = ""
    return [element.strip() for element in elements + _whole_numbers(current) if element.strip()]


def _whole_numbers(text: str) -> list[str]:
    """`text` if its commas are all within numbers, else what they separate."""
    return [text] if "," not in _THOUSANDS.sub("", text) else text.split(",")


def _signs(elements: list[str]) -> list[str]:
    r"""Elements with one \pm in two, one for either sign."""
    found: list[str] = []
    for element in elements:
        before, sign, after = element.partition(r"\pm")
        if not sign or r"\pm" in after:
            found.append(element)
            continue
        plus = "" if not before.strip() or before.rstrip().endswith(("=", "(")) else "+"
        found += [f"{before}{plus}{after.lstrip()}", f"{before}-{after.lstrip()}"]
    return found
