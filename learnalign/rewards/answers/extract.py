"""The final answer of a response: where it stands, as text.

Only what the response concludes is read (`conclusion`): behind `</think>`, and within `<answer>` if there is one.
There, markers are tried in this order, and the first kind that is present decides, right or wrong:

1. `\\boxed{...}` (or `\\fbox`), as said in `boxes`;
2. `#### x`, the GSM8K form; the last such line. A Markdown heading such as `#### Step 1` does not count;
3. "answer is x", "Answer: x", "final answer = x", and the like in Chinese, French, Spanish and German; the last one
   that states something, read again where it holds the marker once more ("Final Answer: The final answer is x");
4. the last formula in math delimiters if nothing numeric follows it.

Without a marker: all that stands within the answer tags, else the last number, else a short response as a whole. An
operand ("10 - 5") is not a number that was given as answer.

So a number in passing never rescues a response whose marked answer is wrong. Every search is linear in the
length of the response. This module does not compare anything: see `exact`.
"""

# ruff: noqa: RUF001 (Chinese punctuation)

from __future__ import annotations

import re
from typing import NamedTuple

from learnalign.rewards.answers.boxes import has_box, last_box, last_boxes
from learnalign.rewards.answers.units import NOT_UNITS
from learnalign.rewards.conclusion import conclusion

SHORT = 200
"""Characters up to which an unmarked response counts as an answer as a whole."""
LONGEST_FORMULA = 2000
"""Characters that are read of a stated answer or a formula."""

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_STATED = re.compile(
    r"(?:\banswers?\b(?:[^\n.:=\d]{0,60}?\b(?:is|are)\b|[\s*_]*(?:[:=]|\s[-\u2013\u2014]\s))"
    r"|答案[\s*]*(?:应该)?[\s*]*[是为為:：]|故选|答え[\s*]*[はは:：]|(?:정답|Ответ|Risposta|Resposta)[\s*]*[:：]|\b(?:r[ée]ponse|respuesta|Antwort)\b[\s*_]*(?:est|es|lautet|ist)?\b)"
    r"[\s*_:：]*([^\n]*)",
    re.IGNORECASE,
)
_WHOLE_SOLUTION = re.compile(r"^(?:A|Answer|Final answer)\s*[:=]\s*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_ADVERB = re.compile(r"^(?:therefore|thus|then|simply|just|indeed),?\s+", re.IGNORECASE)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator notes: <<48/2=24>>24
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|。")
_ASIDE = re.compile(
    r",?\s+(?:which|because|since|so that|but|meaning|i\.e\.|assuming)\b|,\s+(?:as|so|where|when|given|after|and the)\b"
)
_EMPTY_BOX = re.compile(r"\\boxed\s?\{\s?\}")
_MONEY = r"(?:\\?[$€£¥])?"
_STARTS_NUMBER = re.compile(
    rf"{_MONEY}\s*[-+−]?{_MONEY}(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?(?:\s*\\?%)?"
    r"(?P<unit>\s+[^\W\d_]{2,})?(?=[\s,*]|$)"
)
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_ANOTHER = re.compile(r" ?(?:, ?(?:and|or)?|and|or) ?(?=\$|\\\()")
_HAN = "\u3000-\u303f\u3040-\u30ff\u4e00-\u9fff\uff01-\uff5e"
_OPERATORS = "+*/^×÷·"
_CONTINUES = re.compile(r"\s*(?:[-+*/^×÷·=<>]|,\s*[-+\d\\]|and\b|or\b|\\(?!text|%))")


class Answer(NamedTuple):
    """A final answer; `marked` says whether a box, hashes, words or math delimiters singled it out."""

    text: str
    marked: bool
    boxes: tuple[str, ...] = ()
    """The boxes that the text was joined from, if there are several."""


def final_answer(response: str) -> Answer | None:
    """The final answer of `response`, or None where it gives none."""
    text, tagged = conclusion(response)
    text = _EMPTY_BOX.sub("", text)
    found = _marked(text)
    if found is not None:
        boxes = tuple(last_boxes(text)) if has_box(text) else ()
        return Answer(found, True, boxes if len(boxes) > 1 else ()) if found else None
    if tagged:
        return Answer(text, True)
    number = _last_number(_CALCULATION.sub("", text))
    if number is None and len(text) <= SHORT:
        number = text.strip()
    return Answer(number, False) if number else None


def gold_answer(answer: str) -> str:
    """The answer itself, where `answer` may be a whole solution with `#### x`, one box or a last line `A: x`."""
    whole = _WHOLE_SOLUTION.findall(answer) if "\n" in answer.strip() else []
    text = _hashes(answer) or last_box(answer) or (whole[-1] if whole else answer)
    return text.strip()


def _marked(text: str) -> str | None:
    """What a marker singles out, "" for a box that was cut off, None without any marker."""
    if has_box(text):
        return last_box(text) or ""
    text = _CALCULATION.sub("", text)
    return _hashes(text) or _stated(text) or _formula(text)


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
    return _statement(text[start : start + LONGEST_FORMULA])


def _statement(text: str) -> str:
    """What `text`, the words after a marker, gives as the answer: it may hold the marker once more."""
    found = _ADVERB.sub("", text.lstrip(" \t*_:`"))
    again = _STATED.search(_SENTENCE_END.split(found.partition("\n")[0], maxsplit=1)[0])
    if again and again.group(1).strip(" *_$."):
        found = _ADVERB.sub("", found[again.start(1) :].lstrip(" \t*_:`"))
    masked = found.replace(r"\$", "\0\0")
    for opening, closing in _DELIMITERS:
        if masked.startswith(opening) and (end := masked.find(closing, len(opening))) > 0:
            inside = found[len(opening) : end]
            if opening != "$" or not re.search(r"\d\s[A-Za-z]", inside):  # "$5 and $7" is money
                more = _ANOTHER.match(found, end + len(closing))
                return f"{inside.strip()}, {_statement(found[more.end() :])}" if more else inside.strip()
    sentence = _SENTENCE_END.split(found.partition("\n")[0], maxsplit=1)[0]
    sentence = _ASIDE.split(sentence, maxsplit=1)[0]
    number = _STARTS_NUMBER.match(sentence)
    if number and not _CONTINUES.match(sentence, number.end()):
        unit = (number.group("unit") or "").strip().lower()
        return sentence.strip() if unit in NOT_UNITS | {"times"} else number.group().strip()
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
    run = re.sub(f"^[{_HAN}]+|[{_HAN}]+$", "", text[start:end].rpartition("=")[2])
    return run.strip("*_`\"'.,;:!?") or None


def _last_digit(text: str) -> int:
    return max(text.rfind(digit) for digit in "0123456789")
