r"""The verifier `choice`: multiple choice, one letter from A to Z.

The gold answer is a letter, alone or before its text: `B`, `(B)`, `B. Paris`. In a response these are tried in order,
and the first kind that is present decides; of several the last one counts:

1. `\boxed{B}`, `\boxed{\text{(B)}}`, `\boxed{B. Paris}`;
2. `#### B`;
3. "answer is B", "Answer: (b)", "correct option is **B**", "I choose B";
4. a response that is nothing but its choice: `B`, `(b)`, `B) Paris`; else a last line that is a letter alone;
5. the one letter in parentheses, `(B)`, of the last line or else of all, if there is no other.

Two letters in one statement ("A or B") are no answer. `A` before a word is an article, not a choice. This module does
not know the options' texts: a response that gives the text alone has no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from learnalign.errors import RewardError
from learnalign.rewards.answers.extract import gold_answer, last_box
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict

READ = 400
"""Characters that are read of a statement or a line."""

_STATED = re.compile(
    r"\b(?:answers?|option|choice)\b(?:[^\n.:=]{0,60}?\b(?:is|are|be)\b|[\s*_]*[:=])[\s*_:]*"
    r"|\b(?:choose|choosing|select|pick|go with)\b[\s*_:]*",
    re.IGNORECASE,
)
_LEAD = re.compile(r"(?:therefore|thus|then|simply|indeed|option|choice|answer|the|letter|\W)*", re.IGNORECASE)
_OPEN = r"[\s\\({\[*_\"'`$]*(?:text(?:bf)?|mathrm|mathbf)?[\s({\[*_\"'`$]*"
_CHOICE = re.compile(rf"{_OPEN}([A-Za-z])(?![A-Za-z0-9'\u2019^+=<>/-])(.*)", re.DOTALL)
_ANOTHER = re.compile(r"[\s)\]}*_.,$\\]*(?:or|and|/|,|&)[\s(\[{*_$\\]*(?:text\{)?[\s(]*[A-Z](?![A-Za-z0-9])")
_SET_APART = re.compile(r"[\s*_(\[\"'`]*[A-Za-z](?:[\s*_.\"'`)\]]*|[\s*_]*[).:\]][\s*_]*\S.*)", re.DOTALL)
_ALONE = re.compile(r"[\s*_(\[\"'`$]*[A-Za-z][\s*_.\"'`)\]$]*")
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
    if "\\boxed" in response or "\\fbox" in response:
        return _letter(last_box(response) or "")
    for starts in (_HASHES.finditer(response), _STATED.finditer(response)):
        found = [_statement(response, match) for match in starts]
        letters = [letter for letter in found if letter != ""]
        if letters:
            return letters[-1]
    whole = response.strip()
    last_line = whole.rpartition("\n")[2]
    if len(whole) <= READ and _SET_APART.fullmatch(whole) and len(set(_PARENTHESES.findall(whole))) < 2:
        return _letter(whole)
    if len(last_line) <= READ and _ALONE.fullmatch(last_line):
        return _letter(last_line)
    for text in (response,) if _SET_APART.fullmatch(last_line) else (last_line, response):
        named = set(_PARENTHESES.findall(text))
        if len(named) == 1:
            return str(named.pop())
    return None


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
