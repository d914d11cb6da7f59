r"""Whether two normalized answers are equal: taken apart into parts, sides and numbers, until algebra is left.

Lists and sets are compared without regard to order and with regard to repetition, tuples and intervals in order and
with their brackets. A left side that only names the value is dropped (`labels`); of a chain, `48 + 24 = 72`, all sides
must be equal. `x = 1, y = 2` is compared by name, or in order with (1, 2). Words of three letters or more are strings.

`equal` is three-valued: None means that `algebra`, which compares two expressions, could not tell or was not given.
This module does not do algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from learnalign.rewards.answers.labels import is_label, sides, unlabelled
from learnalign.rewards.answers.normalize import plain_text
from learnalign.rewards.answers.parts import Parts, parts
from learnalign.rewards.answers.quantity import quantity, same_quantity
from learnalign.rewards.answers.times import same_date, same_measure, same_time

Algebra = Callable[[str, str], bool | None]
LONGEST_LIST = 40
"""Elements of the longest list that is compared element by element."""

_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|arcsin|arccos|arctan|max|min|gcd|lcm)\b")
_SHORT_WORDS = re.compile(r"am|an|as|at|be|by|do|go|he|hi|if|in|is|it|me|my|no|of|oh|on|or|ox|so|to|up|us|we")
_FIGURE = re.compile(r"\\(?:angle|triangle|overline|vec|overrightarrow) ?\{?[A-Z]{2,}")
_DOTS = re.compile(r"\\[lc]?dots(?![A-Za-z])|(?<!\d)\.\.\.|…")
_TUPLE = re.compile(r"\(([^()=]+)\)=\((.+)\)", re.DOTALL)
_GREATER = re.compile(r"(\\geq?(?![A-Za-z]) ?|>)")
_MEMBER = re.compile(r"[A-Za-z](?:_\w)?\\in(?![A-Za-z])(.*)", re.DOTALL)


def unknown(gold: str, candidate: str) -> bool | None:
    """Algebra that can tell nothing."""
    return None


def equal(gold: str, candidate: str, algebra: Algebra = unknown) -> bool | None:
    """Whether two normalized answers are equal; None if that cannot be told."""
    if gold == candidate:
        return True
    for same in (same_time, same_date, same_measure, _same_number, _same_words, _same_names):
        found = same(gold, candidate)
        if found is not None:
            return found
    gold, candidate = _spelled_alike(gold, candidate), _spelled_alike(candidate, gold)
    named = _unnamed(gold, candidate), _unnamed(candidate, gold)
    if named != (gold, candidate):
        return equal(*named, algebra)
    found = _same_parts(gold, candidate, algebra)
    if found is not None or len(parts(gold).elements) > 1 or len(parts(candidate).elements) > 1:
        return found
    bare = _without_brackets(gold), _without_brackets(candidate)
    if bare != (gold, candidate):
        return equal(*bare, algebra)
    if max(len(sides(gold)), len(sides(candidate))) > 1:
        return _same_sides(gold, candidate, algebra)
    if "\\in" in gold or "\\in" in candidate:
        gold, candidate = _set_only(gold, candidate)
        if gold == candidate:
            return True
    return algebra(*_in_radians(gold, candidate))


def _same_number(gold: str, candidate: str) -> bool | None:
    if gold == candidate:
        return True
    a, b = (quantity(text) or quantity(plain_text(text)) for text in (gold, candidate))
    if a and b is None and a.unit:
        b = quantity(candidate, letters=True)
    if b and a is None and b.unit:
        a = quantity(gold, letters=True)
    return same_quantity(a, b) if a and b else None


def _same_words(gold: str, candidate: str) -> bool | None:
    """Words and letters; None where one of the two may be an expression."""
    one, other = plain_text(gold), plain_text(candidate)
    if one == other:
        return True
    if not (_WORDS.fullmatch(one) and _WORDS.fullmatch(other)) or _FUNCTIONS.search(f"{one} {other}"):
        return None
    if len(one) == len(other) == 1:
        return False
    if one.casefold() == other.casefold() and max(map(len, (one, other))) > 2:
        return True
    if re.search(r"\b(?:and|or)\b", f"{one} {other}"):
        return None
    longest = [max(map(len, re.findall(r"[A-Za-z]+", text))) for text in (one, other)]
    word = any(_SHORT_WORDS.fullmatch(text.lower()) for text in (one, other)) or "\\text" in gold
    if word or min(longest) >= 3 or (max(longest) >= 3 and min(map(len, (one, other))) < 3):
        return one.casefold() == other.casefold()
    return None


def _same_names(gold: str, candidate: str) -> bool | None:
    """Figures named by their corners, and what is left out with dots: compared as text. None for anything else."""
    for mark, alone in ((_FIGURE, False), (_DOTS, True)):
        one, other = (mark.search(text) is not None for text in (gold, candidate))
        if ((one or other) and alone) or (one and other):
            return gold.replace(" ", "") == candidate.replace(" ", "")
    return None


def _spelled_alike(text: str, other: str) -> str:
    """`text` in the spelling of `other`: 1,000 as 1000, f(x) = ... as y = ..., (x, y) = (1, 2) as x = 1, y = 2, and
    3 > x > 1 turned."""
    if "," in text and quantity(text) and len(parts(other).elements) == 1:
        return text.replace(",", "")
    if other.startswith("y=") and text.startswith("f(x)="):
        return "y=" + text.removeprefix("f(x)=")
    named = _TUPLE.fullmatch(text) if "=" in other and not _TUPLE.fullmatch(other) else None
    if named:
        names, values = parts(f"({named.group(1)})").elements, parts(f"({named.group(2)})").elements
        if len(names) == len(values):
            return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    return _turned(text) if "<" in other or "\\le" in other else text


def _turned(text: str) -> str:
    """A chain of `>` as one of `<`."""
    pieces = _GREATER.split(text)
    if len(pieces) < 5 or "<" in text or "\\le" in text:
        return text
    return "".join({">": "<"}.get(piece, r"\le " if _GREATER.fullmatch(piece) else piece) for piece in pieces[::-1])


def _same_parts(gold: str, candidate: str, algebra: Algebra) -> bool | None:
    """Answers of several parts; None where both are single, or their parts cannot be compared."""
    a, b = _parts(gold, candidate), _parts(candidate, gold)
    count = len(a.elements)
    if r"\{" not in (a.opening, b.opening) and max(count, len(b.elements)) < 2:
        return False if b.opening == "[" and not a.opening else None
    if max(count, len(b.elements)) > LONGEST_LIST:
        return algebra(gold, candidate)
    if {a.opening, b.opening} >= {r"\{", "("} or {a.opening, b.opening} >= {r"\{", "["}:
        return False
    if quantity(gold) and len(b.elements) > 1:
        return False  # 2,100 is one number, "2, 100" are two
    if count != len(b.elements):
        return False if _separate(a) and _separate(b) else algebra(gold, candidate)
    if a.interval and b.interval and (a.opening, a.closing) != (b.opening, b.closing):
        return False
    if (a.opening == "[" and not b.opening) or (b.opening == "[" and not a.opening):
        return False
    return _same_elements(a, b, algebra)


def _separate(part: Parts) -> bool:
    """Whether this is one thing, or a list, rather than a relation whose solutions are one."""
    return not any(re.search(r"[<>]|\\(?:l|g|n)eq?(?![A-Za-z])|\\in(?![A-Za-z])|\\cup", text) for text in part.elements)


def _parts(text: str, other: str) -> Parts:
    """The parts of `text`; a column or a row of a matrix where the other one is a tuple."""
    vector = re.fullmatch(r"\\begin\{[pb]?matrix\}(.*)\\end\{[pb]?matrix\}", text, re.DOTALL)
    if vector and parts(other).ordered:
        rows = re.split(r"\\\\", vector.group(1))
        cells = rows if len(rows) > 1 else rows[0].split("&")
        if not any("&" in cell for cell in cells):
            return Parts([cell.strip() for cell in cells], "(", ")")
    return parts(text)


def _same_elements(a: Parts, b: Parts, algebra: Algebra) -> bool | None:
    """Two answers with equally many parts."""
    ours, theirs = _assignments(a.elements), _assignments(b.elements)
    if ours and theirs and ours.keys() == theirs.keys():
        return _all([equal(value, theirs[name], algebra) for name, value in ours.items()])
    in_order = a.ordered or b.ordered or bool(ours) != bool(theirs)
    first = [_value(text) for text in a.elements] if not (ours and theirs) else a.elements
    second = [_value(text) for text in b.elements] if not (ours and theirs) else b.elements
    if in_order:
        return _all([equal(one, other, algebra) for one, other in zip(first, second, strict=True)])
    return _same_multiset(first, second, algebra)


def _same_multiset(first: Sequence[str], second: Sequence[str], algebra: Algebra) -> bool | None:
    """Equal without regard to order, each element once; None where that is open."""
    left = list(second)
    unsure = False
    for one in first:
        found = [equal(one, other, algebra) for other in left]
        if True in found:
            del left[found.index(True)]
        elif None in found:
            unsure = True
        else:
            return False
    return None if unsure else True


def _assignments(elements: Sequence[str]) -> dict[str, str]:
    """Name to value where every element is `name = value` with another name; else empty."""
    found = {}
    for element in elements:
        names = sides(element)
        if len(names) < 2 or not is_label(names[0]):
            return {}
        found[names[0]] = "=".join(names[1:])
    return found if len(found) == len(elements) > 1 else {}


def _unnamed(text: str, other: str) -> str:
    """`(x, y) = (1, 2)` without the name, where the other one has none."""
    values = unlabelled(text) if "=" in text and "=" not in other and len(parts(text).elements) == 1 else []
    return values[0] if len(values) == 1 else text


def _value(text: str) -> str:
    return "=".join(unlabelled(text))


def _same_sides(gold: str, candidate: str, algebra: Algebra) -> bool | None:
    """Equations and chains; at least one of the two has an equals sign."""
    ours, theirs = sides(gold), sides(candidate)
    if len(ours) > 1 and len(theirs) > 1:
        if len(ours) == len(theirs) == 2 and not (is_label(ours[0]) and ours[0] == theirs[0]):
            return algebra(gold, candidate)
        ours, theirs = unlabelled(gold), unlabelled(candidate)
        if sides(gold)[0] != sides(candidate)[0]:
            return False
    else:
        ours, theirs = unlabelled(gold), unlabelled(candidate)
        if len(ours) > 1:
            return False  # 7 = 11a + c is no value
    checks = [equal(ours[-1], theirs[-1], algebra)]
    checks += [equal(theirs[-1], side, algebra) if not _is_open(side) else False for side in theirs[:-1]]
    return _all(checks)


def _is_open(side: str) -> bool:
    """Whether a side of a chain has letters in it: 2x = 5 is an equation to be solved."""
    return bool(re.search(r"[A-Za-z]", re.sub(r"\\(?:[a-zA-Z]+)", "", plain_text(side)))) and quantity(side) is None


def _all(found: list[bool | None]) -> bool | None:
    return False if False in found else None if None in found else True


def _without_brackets(text: str) -> str:
    single = parts(text)
    return single.elements[0] if single.elements and single.opening in ("", "[") else text


def _set_only(gold: str, candidate: str) -> tuple[str, str]:
    """Without `x \\in` where the other one has no relation."""
    ours, theirs = _MEMBER.fullmatch(gold), _MEMBER.fullmatch(candidate)
    relation = r"[<>=]|\\[lgn]eq?(?![A-Za-z])"
    if ours and not re.search(relation, candidate):
        gold = ours.group(1).strip()
    if theirs and not re.search(relation, gold):
        candidate = theirs.group(1).strip()
    return gold, candidate


def _in_radians(gold: str, candidate: str) -> tuple[str, str]:
    """An angle in degrees as a multiple of pi where the other one has a pi."""
    found = []
    for text, other in ((gold, candidate), (candidate, gold)):
        angle = quantity(text) if r"\pi" in other else None
        if angle and angle.unit == "degree ":
            text = rf"\frac{{{angle.value.numerator}\pi}}{{{angle.value.denominator * 180}}}"
        found.append(text)
    return found[0], found[1]
