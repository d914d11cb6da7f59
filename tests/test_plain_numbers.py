"""The short way to the verdict on two whole numbers says what the long way says."""

from __future__ import annotations

from itertools import product

import pytest

from learnalign.rewards.answers import exact
from learnalign.rewards.answers.plain import plain_numbers

NUMBERS = ["72", "-72", "072", "0", "-0", "7", "1000000", "999999999999999"]
ODD_NUMBERS = ["1234567890123456", "72.0", "1,000,000", "+72", "7 2", "\uff17\uff12", "72%", "72 cm", "--72", "-", ""]
PLAIN = [
    "so \\boxed{%s}.", "$\\boxed{%s}$ and that is 3", "\\\\boxed{%s}", "{\\boxed{%s}", "a < b, 3 <<4>>\n#### %s \n",
    "#### 5\n#### %s", "####%s", "x\n####\t%s\r\n", "\\boxed{%s}\n#### 5",
]  # fmt: skip
ODD = [
    "<think>\\boxed{%s}", "<think>\\boxed{3}</think>\\boxed{%s}", "<answer>\\boxed{%s}</answer> 72", "\\boxed{%s",
    "\\boxed{3}, \\boxed{%s}", "\\boxed{\\boxed{%s}}", "\\fbox{%s} \\boxed{7}", "boxed{%s}", "xboxed{%s}",
    "\\boxed {%s}", "\\boxed{ %s }", "#####%s", "x####%s", "# #### %s and more", "####\n%s", "#### %s #",
    "The answer is %s.", "%s", "<ANSWER>3</ANSWER>\n#### %s", "\\boxed{%s\\}}", "\\boxed{%s}}", "#### %s ####",
]  # fmt: skip


@pytest.mark.parametrize("shape", PLAIN + ODD)
def test_the_short_way_says_what_the_long_way_says(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        (shape.replace("%s", number), answer)
        for number in NUMBERS + ODD_NUMBERS
        for answer in ["72", "-0", "072", "7,2", "72.0", "72 cm", "We add.\n#### 72", "\\boxed{72}", " 72 ", "x\nA: 72"]
    ]
    short = [exact.first_look(*one, 0).verdict for one in asked]
    monkeypatch.setattr(exact, "plain_numbers", lambda response, answer: None)
    assert short == [exact.first_look(*one, 0).verdict for one in asked]


def test_plain_numbers_go_the_short_way_and_others_do_not() -> None:
    for shape, number, gold in product(PLAIN, NUMBERS, NUMBERS):
        found = plain_numbers(shape.replace("%s", number), gold)
        assert found is not None
        assert found.same == (int(number) == int(gold))
    for shape, number in product(PLAIN, ODD_NUMBERS):
        assert plain_numbers(shape.replace("%s", number), "72") is None
        assert plain_numbers("\\boxed{72}", number) is None
