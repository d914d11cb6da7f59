"""Exact comparison of two answers after normalization, and the verifier `exact` built on it.

Numbers are compared as rationals. What counts as equal:

- layout: whitespace, `\\left`, `\\dfrac`, `\\text{...}`, `$`, Unicode digits and minuses, "approximately", a wrapping
  "the answer is";
- a left side that only names the value: `x =`, `f(x) =`, `AB =` (`labels`);
- parts in the orders that `structure` allows;
- thousands separators `,` `{,}` `\\,` or a space, in groups of three: 3,000 = 3000, but "3, 000" are two numbers; no
  decimal commas;
- forms of a rational: 72.0 = 72, 1/2 = \\frac12 = 0.5, 1\\frac45 = 9/5, 3 \\times 10^8, 0.\\overline{3} = 1/3,
  5 million;
- a decimal of six or more significant digits for a fraction whose decimal does not end: 0.333333 = 1/3;
- units and currency: dropped. Two known units that differ (5 cm, 5 m) or two number bases are different;
- percent: taken literally, 50% = 0.5. Where one side has the sign and the other has none, the bare number may
  also mean percent if it is above 1, since a share is not: 50% = 50, but 0.5% is not 0.5.

Words are compared without regard to case, single letters with it. This module does not know algebra: where it
cannot decide, `equal` says so, and `math` asks math-verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.answers.extract import SHORT, final_answer, gold_answer
from learnalign.rewards.answers.normalize import normalize
from learnalign.rewards.answers.plain import plain_numbers
from learnalign.rewards.answers.structure import equal
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths, verdict

LONGEST = 1000
"""Characters of the longest answer that is compared other than character by character."""


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
    plain = plain_numbers(response, answer)
    if plain is not None:
        return FirstLook(verdict(plain.same, "exact" if plain.same else "wrong"), *plain)
    gold = gold_answer(answer)
    if not gold:
        raise RewardError(f"the gold answer at position {index} is empty; every problem needs one")
    if not response.strip():
        return FirstLook(verdict(False, "empty"), gold, "")
    try:
        return _look(response, gold)
    except (ValueError, ArithmeticError, RecursionError, MemoryError):  # an answer that we cannot read is no answer
        return FirstLook(verdict(False, "error"), gold, "")


def _look(response: str, gold: str) -> FirstLook:
    found = final_answer(response)
    if found is None:
        return FirstLook(verdict(False, "no answer"), gold, "")
    if max(len(gold), len(found.text)) > LONGEST:
        identical = gold == found.text
        return FirstLook(verdict(identical, "exact" if identical else "too long"), gold, found.text)
    gold, candidate = normalize(gold), normalize(_joined(found.boxes) or found.text)
    same = equal(gold, candidate)
    if not same and not found.marked and len(response) <= SHORT:
        same = normalize(response) == gold or same  # an unmarked response that is nothing but its answer
    if same:
        return FirstLook(verdict(True, "exact"), gold, candidate)
    decided = same is False or not found.marked  # what no marker singles out has to be exact
    return FirstLook(verdict(False, "wrong") if decided else None, gold, candidate)


def _joined(boxes: tuple[str, ...]) -> str:
    """Boxes next to one another as a list, without those that a later one gives in another form."""
    read = [normalize(box) for box in boxes]
    kept = [box for at, box in enumerate(boxes) if not any(equal(read[at], later) for later in read[at + 1 :])]
    return ", ".join(kept)
