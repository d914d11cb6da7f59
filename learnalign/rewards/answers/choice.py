# ruff: noqa: RUF001 (Chinese punctuation)
r"""The verifier `choice`: multiple choice, one letter from A to Z.

The gold answer is a letter, alone or before its text: `B`, `(B)`, `B. Paris`. Of a response only what it concludes is
read (`conclusion`). There these are tried in order, and the first kind that is present decides; of several the last
one counts:

1. `\boxed{B}`, `\boxed{\text{(B)}}`, `\boxed{B. Paris}`; a box that holds no letter decides nothing;
2. `#### B`;
3. "answer is B", "Answer: (b)", "correct option is **B**", "I choose B", "B is correct", "答案是B", "故选B";
4. a response that is nothing but its choice: `B`, `(b)`, `B) Paris`; else the one line that is a letter alone, if it is
   the last;
5. "option B", if no other is named so;
6. the one letter in parentheses, `(B)`, of the last line or else of all, if there is no other.

Two letters in one statement ("A or B") are no answer. `A` before a word is an article, not a choice. This module does
not know the options' texts: a response that gives the text alone has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from learnalign.errors import RewardError
from learnalign.rewards.answers.boxes import has_box, last_box
from learnalign.rewards.answers.extract import gold_answer
from learnalign.rewards.conclusion import conclusion
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict

READ = 400
"""Characters that are read of a statement or a line."""

_STATED = re.compile(
    r"\b(?:answers?|option|choice)\b(?:[^\n.:=]{0,60}?\b(?:is|are|be)\b|[\s*_]*[:=])[\s*_:]*"
    r"|\b(?:choose|choosing|select|pick|go with)\b[\s*_:]*"
    r"|答案[\s*]*(?:应该)?[\s*]*[是为為选選:：][\s*_:：]*|[故应應]?[选選]择?[\s*_:：]*",
    re.IGNORECASE,
)
_LEAD = re.compile(r"(?:therefore|thus|then|simply|indeed|option|choice|answer|the|letter|\W)*", re.IGNORECASE)
_OPEN = r"[\s\\({\[*_\"'`$]*(?:text(?:bf)?|mathrm|mathbf)?[\s({\[*_\"'`$]*"
_CHOICE = re.compile(
    rf"{_OPEN}([A-Za-z])(?![A-Za-z0-9'\u2019^+=<>/-]|\s*[\^+=<>]|\s-\s*\d|\s*\\(?!text|q?quad)[a-z])(.*)", re.DOTALL
)
_ANOTHER = re.compile(r"[\s)\]}*_.,$\\]*(?:or|and|/|,|&)[\s(\[{*_$\\]*(?:text\{)?[\s(]*[A-Z](?![A-Za-z0-9])")
_SET_APART = re.compile(
    r"[\s*_(\[\"'`]*[A-Za-z](?:[\s*_.\"'`)\]]*|[\s*_]*[).:\]][\s*_]*\S.*|\s+[-\u2013\u2014]\s+[^\s\d].*)", re.DOTALL
)
_ALONE = re.compile(r"[\s*_(\[\"'`$]*[A-Za-z][\s*_.\"'`)\]$]*")
_CORRECT = re.compile(
    r"(?<![A-Za-z0-9'])(?:(?:option|choice|answer) )?[(*_]{0,4}([A-Z])[)*_.:]{0,4}(?: [^\n.]{0,40})?"
    r" (?:is|must be|would be|has to be) (?:(?:the|thus|therefore|clearly) )*"
    r"(?:(?:only |best |most )*(?:correct|right)|(?:best|correct|right) (?:answer|choice|option)"
    r"|the (?:answer|choice))\b"
)
_OPTION = re.compile(r"\b(?:[Oo]ption|[Cc]hoice) [(*_]{0,4}([A-Z])(?![A-Za-z0-9])")
_NEGATED = re.compile(r"\b(?:not|nor|neither|never|n't)\b|n't\b", re.IGNORECASE)
_REASON = re.compile(r"\s+(?:because|since)\b")
_PARENTHESES = re.compile(r"\(([A-Z])\)")
_HASHES = re.compile(r"(?<!#)####(?!#)([^\n]*)")


class ChoiceVerifier(Verifier):
    """Verifier letters."""

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`. Raises `RewardError` for a gold answer that is no letter."""
        check_lengths(responses, answers)
        return [
            _judge(response, _gold(answer, i))
            for i, (response, answer) in enumerate(zip(responses, answers, strict=True))
        ]


def chosen(response: str) -> str | None:
    """The letter that a response chooses, as a capital; None where it chooses none, or more than one."""
    text, _ = conclusion(response)
    if has_box(text):
        box = last_box(text)
        letter = _letter(box or "")
        if letter or box is None or _names_two(box):
            return letter
    for found in (_after_hashes(text), _statements(text)):
        letters = [letter for letter in found if letter != ""]
        if letters:
            return letters[-1]
    return _alone(text.strip()) or _one(_OPTION.findall(text)) or _in_parentheses(text)


def _names_two(text: str) -> bool:
    match = _CHOICE.match(text[:READ])
    return match is not None and _ANOTHER.match(match.group(2)) is not None


def _after_hashes(text: str) -> list[str | None]:
    return [_statement(text, match) for match in _HASHES.finditer(text)]


def _statements(text: str) -> list[str | None]:
    """What is stated in words, in order."""
    found = [(match.start(), _statement(text, match)) for match in _STATED.finditer(text)]
    for match in _CORRECT.finditer(text):
        if not _NEGATED.search(match.group()):
            before = text[max(0, match.start() - READ) : match.start()]
            another = re.search(r"(?<![A-Za-z])[A-Z][)*_]*(?:,| or| and) $", before)
            another = another or re.search(r" (?:and|or) ", match.group())
            found.append((match.start(), None if another else match.group(1)))
    return [letter for _, letter in sorted(found, key=lambda pair: pair[0])]


def _alone(whole: str) -> str | None:
    """The letter of a response that is nothing else, or whose last line is, where no other line is a letter too."""
    if len(whole) <= READ and _SET_APART.fullmatch(whole) and len(set(_PARENTHESES.findall(whole))) < 2:
        lines = [line for line in whole.splitlines() if _ALONE.fullmatch(line)]
        return _letter(whole) if len(lines) < 2 and not _lists_options(whole) else None
    last_line = whole.rpartition("\n")[2]
    if len(last_line) > READ or not _ALONE.fullmatch(last_line):
        return None
    lines = [line for line in whole.splitlines() if len(line) <= READ and _ALONE.fullmatch(line)]
    return _letter(last_line) if len({_letter(line) for line in lines}) < 2 else None


def _lists_options(whole: str) -> bool:
    """Whether several lines start with a letter set apart: the options, repeated."""
    return sum(bool(_SET_APART.fullmatch(line.strip())) for line in whole.splitlines()) > 1


def _in_parentheses(text: str) -> str | None:
    last_line = text.strip().rpartition("\n")[2]
    for part in (text,) if _SET_APART.fullmatch(last_line[: 2 * READ]) else (last_line, text):
        letter = _one(_PARENTHESES.findall(part))
        if letter:
            return letter
    return None


def _one(named: list[str]) -> str | None:
    return named[0] if len(set(named)) == 1 else None


def _judge(response: str, gold: str) -> Verdict:
    if not response.strip():
        return verdict(False, "empty")
    letter = chosen(response)
    if letter is None:
        return verdict(False, "no answer")
    return verdict(True, "exact") if letter == gold else verdict(False, "wrong")


def _gold(answer: str, position: int) -> str:
    letter = _letter(gold_answer(answer))
    if letter is None:
        raise RewardError(
            f"the gold answer at position {position} must be a letter from A to Z, alone or before its text, found "
            f"{answer!r:.60}; pools with other answers need another verifier"
        )
    return letter


def _statement(text: str, match: re.Match[str]) -> str | None:
    """The letter after a marker, None if it names two, "" if it names none at all."""
    rest = text[match.end() : match.end() + READ] if match.re is _STATED else match.group(1)[:READ]
    rest = rest.partition("\n")[0]
    for start in (rest, _LEAD.sub("", rest, count=1)):
        choice = _CHOICE.match(start)
        if choice and _ANOTHER.match(choice.group(2)):
            return None
        if (letter := _letter(start)) is not None:
            return letter
    return ""


def _letter(text: str) -> str | None:
    """The letter with which `text` starts, where it stands for a choice."""
    match = _CHOICE.match(text[:READ])
    if match is None or _ANOTHER.match(match.group(2)):
        return None
    letter, rest = match.groups()
    word_follows = re.match(r"\s+[a-zA-Z]", rest) and not _REASON.match(rest)
    if word_follows and (letter in "AI" or letter.islower()):  # "A dog", "I think", "a dog"
        return None
    return str(letter).upper()
