"""Exact comparison of two answers after normalization, and the verifier `exact` built on it.

Numbers are compared as rationals. What counts as equal:

- layout: whitespace, `\\left`, `\\dfrac`, `\\text{...}`, `$`, a leading `x =`, Unicode digits and minuses;
- thousands separators `,` `{,}` `\\,` or a space, in groups of three: 3,000 = 3000; no decimal commas;
- forms of a rational: 72.0 = 72, 1/2 = \\frac12 = 0.5, 1\\frac45 = 9/5, 3 \\times 10^8;
- a decimal of six or more significant digits for a fraction whose decimal does not end: 0.333333 = 1/3;
- units and currency: dropped. Two known units that differ (5 cm, 5 m) or two number bases are different;
- percent: taken literally, 50% = 0.5. Where one side has the sign and the other has none, the bare number may
  also mean percent if it is above 1, since a share is not: 50% = 50, but 0.5% is not 0.5.

Words are compared without regard to case, single letters with it. This module does not know algebra: where it
cannot decide, `compare` says so, and `math` asks math-verify.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.answers.extract import SHORT, final_answer, gold_answer
from learnalign.rewards.answers.normalize import normalize, plain_text
from learnalign.rewards.answers.quantity import quantity, same_quantity
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict

LONGEST = 1000
"""Characters of the longest answer that is compared other than character by character."""

_EQUATION = re.compile(r"([^,;]*[^<>!,;\\])=(?!=)([^=]*)")


class FirstLook(NamedTuple):
    """What exact comparison found: a verdict, or None and the two normalized answers that stay open."""

    verdict: Verdict | None
    gold: str
    candidate: str


class ExactVerifier(Verifier):
    """The verifier `exact`: a response is correct if its final answer equals the gold one as said above."""

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`."""
        check_lengths(responses, answers)
        looks = map(first_look, responses, answers, range(len(answers)))
        return [look.verdict or verdict(False, "wrong") for look in looks]


def first_look(response: str, answer: str, index: int) -> FirstLook:
    """Verifier one response by exact comparison.

    Raises `RewardError` if the gold answer (number `index` of its batch) is empty.
    """
    gold = gold_answer(answer)
    if not gold:
        raise RewardError(f"the gold answer at position {index} is empty; every problem needs one")
    if not response.strip():
        return FirstLook(verdict(False, "empty"), gold, "")
    found = final_answer(response)
    if found is None:
        return FirstLook(verdict(False, "no answer"), gold, "")
    if max(len(gold), len(found.text)) > LONGEST:
        same = gold == found.text
        return FirstLook(verdict(same, "exact" if same else "too long"), gold, found.text)
    gold, candidate = normalize(gold), normalize(found.text)
    equal = compare(gold, candidate)
    if not equal and not found.marked and len(response) <= SHORT:
        equal = normalize(response) == gold  # an unmarked response that is nothing but its answer
    if equal:
        return FirstLook(verdict(True, "exact"), gold, candidate)
    decided = equal is False or not found.marked  # what no marker singles out has to be exact
    return FirstLook(verdict(False, "wrong") if decided else None, gold, candidate)


def compare(gold: str, candidate: str) -> bool | None:
    """Whether two normalized answers are equal; None if exact comparison cannot tell."""
    gold, candidate = _without_left_side(gold, candidate)
    if gold == candidate:
        return True
    a, b = quantity(gold), quantity(candidate)
    if a and b:
        return same_quantity(a, b)
    words, other = plain_text(gold), plain_text(candidate)
    if words == other:
        return True
    if re.fullmatch(r"[A-Za-z]", words) and re.fullmatch(r"[A-Za-z]", other):
        return False
    if re.fullmatch(r"[A-Za-z][A-Za-z' -]+", words) and ("\\text" in gold or " " in words):
        return words.casefold() == other.casefold()
    return None


def _without_left_side(gold: str, candidate: str) -> tuple[str, str]:
    """Drop `x =` from the side that alone has one; `x = 1, y = 2` is no single equation and stays."""
    ours, theirs = _EQUATION.fullmatch(gold), _EQUATION.fullmatch(candidate)
    if theirs and "=" not in gold:
        return gold, theirs.group(2).strip()
    if ours and "=" not in candidate and re.fullmatch(r"[A-Za-z](_\w)?", ours.group(1).strip()):
        return ours.group(2).strip(), candidate
    return gold, candidate
