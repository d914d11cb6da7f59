"""The final answer of a response: where it stands, as text.

Markers are tried in this order, and the first kind that is present decides, right or wrong:

1. `\\boxed{...}` (or `\\fbox`) with balanced braces. Of several the last one counts. A last box that never
   closes means that the response was cut off inside its answer: there is no answer.
2. `#### x`, the GSM8K form; the last such line. A Markdown heading such as `#### Step 1` does not count.
3. "answer is x", "Answer: x", "final answer = x"; the last one that states something.
4. Without any marker: the last formula in math delimiters if nothing numeric follows it, else the last
   number, else a short response as a whole. An operand ("10 - 5") is not a number that was given as answer.

So a number in passing never rescues a response whose marked answer is wrong. Every search is linear in the
length of the response. This module does not compare anything: see `exact`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from learnalign.rewards.answers.quantity import NOT_UNITS

SHORT = 200
"""Characters up to which an unmarked response counts as an answer as a whole."""
LONGEST_FORMULA = 2000
"""Characters that are read of a stated answer or a formula."""

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\(?s:.)|[{}]")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s*(-?\d[^\s{}$\\]*)")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_STATED = re.compile(
    r"\banswers?\b(?:[^\n.:=\d]{0,60}?\b(?:is|are)\b|[\s*_]*[:=])[\s*_:]*([^\n]*)", re.IGNORECASE | re.ASCII
)
_ADVERB = re.compile(r"^(?:therefore|thus|then|simply|just|indeed),?\s+", re.IGNORECASE)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator notes: <<48/2=24>>24
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)")
_MONEY = r"(?:\\?[$€£¥])?"
_STARTS_NUMBER = re.compile(
    rf"{_MONEY}\s*[-+−]?{_MONEY}(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?(?:\s*\\?%)?"
    r"(?P<unit>\s+[^\W\d_]{2,})?(?=[\s,*]|$)"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_OPERATORS = "+*/^×÷·"
_CONTINUES = re.compile(r"\s*(?:[-+*/^×÷·=<>]|,\s*[-+\d\\]|and\b|or\b|\\(?!text|%))")


class Answer(NamedTuple):
    """A final answer; `marked` says whether a box, hashes, words or math delimiters singled it out."""

    text: str
    marked: bool


def final_answer(response: str) -> Answer | None:
    """The final answer of `response`, or None where it gives none."""
    if "\\boxed" in response or "\\fbox" in response:
        box = last_box(response)
        return Answer(box, True) if box else None
    response = _CALCULATION.sub("", response)
    for find in (_hashes, _stated, _formula):
        text = find(response)
        if text:
            return Answer(text, True)
    text = _last_number(response)
    if text is None and len(response) <= SHORT:
        text = response.strip()
    return Answer(text, False) if text else None


def gold_answer(answer: str) -> str:
    """The answer itself, where `answer` may be a whole solution with `#### x` or one box."""
    text = _hashes(answer) or last_box(answer) or answer
    return text.strip()


def last_box(text: str) -> str | None:
    """Content of the last box of `text`; None without a box, or when the last one never closes."""
    last: tuple[int, str] | None = None
    unclosed = -1
    stack: list[tuple[int, int]] = []  # (start of the command or -1 for a plain brace, start of the content)
    for token in _BOX_TOKEN.finditer(text):
        mark = token.group()
        if mark == "{":
            stack.append((-1, token.end()))
        elif mark == "}":
            if stack:
                start, content = stack.pop()
                if start >= 0 and (last is None or start > last[0]):
                    last = (start, text[content : token.start()])
        elif len(mark) > 2:
            stack.append((token.start(), token.end()))
    for start, _ in stack:
        unclosed = max(unclosed, start)
    bare = max(_BARE_BOX.finditer(text), key=lambda match: match.start(), default=None)
    if bare and bare.start() > max(unclosed, last[0] if last else -1):
        return bare.group(1).strip(".,;")
    if last is None or unclosed > last[0]:
        return None
    return last[1].strip()


def _hashes(text: str) -> str | None:
    """The rest of the last `####` line that is no heading: all of it a number, or nothing after it."""
    found, end = None, len(text.rstrip())
    for match in _HASHES.finditer(text):
        rest = match.group(1).strip()
        if rest and (_STARTS_NUMBER.fullmatch(rest.rstrip(".")) or match.end() >= end):
            found = rest
    return found


def _stated(text: str) -> str | None:
    """What the last "answer is ..." states, without the rest of its sentence."""
    start = -1
    for match in _STATED.finditer(text):
        if start < 0 or re.search(r"[\d$\\]", match.group(1)):
            start = match.start(1)
    if start < 0:
        return None
    found = _ADVERB.sub("", text[start : start + LONGEST_FORMULA].lstrip(" \t*_:`"))
    masked = found.replace(r"\$", "\0\0")
    for opening, closing in _DELIMITERS:
        if masked.startswith(opening) and (end := masked.find(closing, len(opening))) > 0:
            inside = found[len(opening) : end]
            if opening != "$" or not re.search(r"\d\s[A-Za-z]", inside):  # "$5 and $7" is money
                return inside.strip()
    sentence = _SENTENCE_END.split(found.partition("\n")[0], maxsplit=1)[0]
    number = _STARTS_NUMBER.match(sentence)
    if number and not _CONTINUES.match(sentence, number.end()):
        unit = (number.group("unit") or "").strip().lower()
        return sentence.strip() if unit in NOT_UNITS else number.group().strip()
    return sentence.strip(" \t*_`")


def _formula(text: str) -> str | None:
    """The formula around the last digit, if that stands in math delimiters; what follows its last `=`."""
    masked = text.replace(r"\$", "\0\0")
    digit = _last_digit(text)
    for opening, closing in _DELIMITERS:
        start, end = masked.rfind(opening, 0, max(digit, 0)), masked.find(closing, max(digit, 0))
        inside = text[start + len(opening) : end]
        if min(start, end) < 0 or end - start > LONGEST_FORMULA or closing in masked[start + len(opening) : end]:
            continue
        if opening == closing and masked.count(opening, 0, start + len(opening)) % 2 == 0:
            continue  # that one closes an earlier formula
        return inside.strip() if "," in inside else inside.rpartition("=")[2].strip()
    return None


def _last_number(text: str) -> str | None:
    """The last run of characters with a digit in it, unless it is an operand of unfinished arithmetic."""
    digit = _last_digit(text)
    if digit < 0:
        return None
    start = end = digit
    while start > 0 and not text[start - 1].isspace() and digit - start < SHORT:
        start -= 1
    while end < len(text) and not text[end].isspace() and end - digit < SHORT:
        end += 1
    before = text[max(0, start - SHORT) : start].rpartition("\n")[2].rstrip()
    after = text[end : end + SHORT].partition("\n")[0].lstrip()
    if (len(before) > 1 and before[-1] in _OPERATORS + "-−") or after[:1] in tuple(_OPERATORS + "-−="):
        return None
    run = text[start:end].rpartition("=")[2]
    return run.strip("*_`\"'.,;:!?") or None


def _last_digit(text: str) -> int:
    return max(text.rfind(digit) for digit in "0123456789")
