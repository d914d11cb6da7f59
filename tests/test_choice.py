# ruff: noqa: RUF001 (Chinese punctuation)
"""Multiple choice: which letter a response chooses, and which gold answers are letters."""

from __future__ import annotations

import itertools

import pytest

from learnalign.errors import RewardError
from learnalign.rewards import make_verifier
from learnalign.rewards.answers.choice import chosen

PHRASES = [
    r"so \boxed{%s}",
    r"\boxed{\text{(%s)}}",
    r"$\boxed{\textbf{%s}}$",
    r"\boxed{%s. Paris}",
    "working\n#### %s",
    "The answer is %s.",
    "The answer is (%s).",
    "The correct answer is: **%s**",
    "the correct option is therefore %s) Paris",
    "Answer: %s",
    "**Answer:** (%s) Paris",
    "Final answer: option %s",
    "I choose %s because it rains.",
    "I would go with option %s.",
    "%s",
    " (%s) ",
    "**%s.**",
    "%s) Paris",
    "%s: Paris",
    "It rains, so the road is wet.\n\n%s",
    "It rains, so the road is wet (%s)",
]


@pytest.mark.parametrize(("phrase", "letter"), list(itertools.product(PHRASES, "ABEI")))
def test_usual_phrasings(phrase: str, letter: str) -> None:
    assert chosen(phrase % letter) == letter


@pytest.mark.parametrize("letter", "bd")
def test_small_letters_where_a_choice_is_stated(letter: str) -> None:
    for phrase in ("answer: %s", "the answer is (%s)", r"\boxed{%s}", "(%s)", "%s"):
        assert chosen(phrase % letter) == letter.upper()


@pytest.mark.parametrize(
    "response",
    [
        "A dog barks at night",
        "I think that it rains",
        "The answer is Paris.",
        "The answer is a dog",
        "The answer is A or B.",
        "Answer: (A) and (C)",
        r"\boxed{A, C}",
        r"\boxed{}",
        r"\boxed{A",
        "no idea",
        "f(x) = B + C",
        "(A) Paris\n(B) Rome\n(C) Bonn",  # the options, repeated
        "(A) Paris (B) Rome",
        "The answer is A+B",
    ],
)
def test_no_choice(response: str) -> None:
    assert chosen(response) is None


def test_the_last_statement_counts_and_the_stronger_marker_decides() -> None:
    assert chosen("The answer is A. No, the answer is B.") == "B"
    assert chosen(r"The answer is A. \boxed{C}") == "C"
    assert chosen("Answer: B\n(A) was tempting") == "B"
    assert chosen("The options are A) Paris and B) Rome.\n\nIt has to be (B)") == "B"
    assert chosen("Options:\nA) Paris\nB) Rome\nAnswer:\n\nB") == "B"
    assert chosen("The answer is not A.\nB") == "B"
    assert chosen("(A) x (B) y\nThe answer is clear: it is (B)") == "B"


def test_every_other_letter_is_wrong() -> None:
    with make_verifier("choice", workers=1, timeout_seconds=1, memory_mb=100) as judge:
        for gold in ("B", "(B)", "B. Paris", "b", r"\boxed{B}", "#### B"):
            verdicts = judge.judge([f"The answer is {letter}." for letter in "ABCDE"], [gold] * 5)
            assert [verdict.correct for verdict in verdicts] == [letter == "B" for letter in "ABCDE"]
        assert [v.how for v in judge.judge(["", "Paris"], ["B", "B"])] == ["empty", "no answer"]
        with pytest.raises(RewardError, match=r"position 1 must be a letter from A to Z.*'Paris'"):
            judge.judge(["B", "B"], ["B", "Paris"])


def test_long_responses_are_read_in_linear_time() -> None:
    for text in (
        "(A" * 500_000,
        "answer is " * 100_000,
        "\\boxed{" * 100_000,
        "A" * 1_000_000,
        " " * 1_000_000 + "(",
        "*(" * 500_000,
    ):
        chosen(text)


@pytest.mark.parametrize(
    "phrase",
    [
        "%s is correct.",
        "%s is the correct answer.",
        "(%s) is the best option.",
        "Option %s is correct.",
        "Option (%s).",
        "So it must be choice %s.",
        "<answer>%s</answer>",
        "<answer>\n(%s)\n</answer>",
        "答案：%s",
        "答案是%s。",
        "故选%s",
        "因此选 (%s)。",
        "%s - Paris",
        "<think>The answer is C... no.</think>\n\n%s",
        "\\boxed{x \\ll y}\n\n**Answer: %s**",
        "Option %s is the right choice because it rains.",
        "<think>(A) or (C)?</think>The answer is (%s).",
    ],
)
@pytest.mark.parametrize("letter", "BDE")
def test_more_phrasings(phrase: str, letter: str) -> None:
    assert chosen(phrase % letter) == letter


@pytest.mark.parametrize(
    "response",
    [
        "A\nB\nC\nD",
        "A\n\nB",
        "A) Paris\nB) Rome",
        r"\boxed{A} \boxed{B}",
        "Answer: A, B, C, D",
        "B is not correct.",
        "A and B is correct.",
        "<think>The answer is B.",
        "<think>The answer is B.</think>",
        "Option A or option B.",
    ],
)
def test_more_that_choose_nothing(response: str) -> None:
    assert chosen(response) is None
