"""Answers in text as the signals compare them: without algebra and without processes."""

from __future__ import annotations

from learnalign.rewards.answers.choice import chosen
from learnalign.rewards.answers.extract import final_answer, gold_answer
from learnalign.rewards.answers.normalize import normalize
from learnalign.rewards.answers.quantity import quantity
from learnalign.rewards.answers.structure import equal


def same_answer(one: str, other: str) -> bool | None:
    """Whether two answers are equal; None where that takes algebra."""
    return equal(normalize(gold_answer(one)), normalize(gold_answer(other)))


def stated_answer(response: str, verifier: str) -> str:
    """What a response gives as its answer, equal numbers written alike; "" where it gives none."""
    if verifier == "choice":
        return chosen(response) or ""
    found = final_answer(response)
    answer = normalize(found.text) if found else ""
    number = quantity(answer)
    return answer if number is None else f"{number.value} {number.unit}".strip()
