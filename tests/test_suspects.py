"""Prompts whose reference answer is probably wrong: each signal finds what it is for, and leaves the rest alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.demo.run import POLICY
from learnalign.suspects import SIGNALS
from learnalign.suspects.agreement import Agreement, agreement, disputed
from learnalign.suspects.copies import contradictions, copies_of
from learnalign.suspects.unreadable import undecided, unreadable

UNKNOWN = np.full(9, np.nan)
TRIANGLE = "Find the area of the triangle with sides $3$, $4$ and $5$."


def contradicting(texts: list[str], answers: list[str], rates: list[float] | None = None) -> list[int]:
    rate = UNKNOWN if rates is None else np.array(rates)
    return [int(one.prompt_id) for one in contradictions(list(map(str, range(len(texts)))), texts, answers, rate)]


@pytest.mark.parametrize(
    ("copy", "same"),
    [
        ("find the area of triangle with sides 3, 4, and 5", True),
        ("  Find the area of a triangle\nthat has the sides $3$,$4$ and $5$.", True),
        ("Find the area of the triangle with sides $3$, $4$ and $6$.", False),
        ("Find the area of the triangle with sides $3$, $5$ and $4$.", False),
        ("Find the perimeter of the triangle with sides $3$, $4$ and $5$.", False),
        ("Find the area of the triangle with sides $-3$, $4$ and $5$.", False),
    ],
)  # fmt: skip
def test_copies_differ_in_layout_alone(copy: str, same: bool) -> None:
    assert contradicting([TRIANGLE, copy], ["6", "12"]) == ([0, 1] if same else [])


@pytest.mark.parametrize(
    ("answers", "rates", "suspect"),
    [
        (["6", "6.0"], None, []),
        (["0.5", r"\frac12"], None, []),
        (["x+y", "y+x"], None, []),  # algebra: not known to differ
        (['["6", "12"]', "12"], None, []),  # any of the accepted
        (["6", "12", "6"], None, [1]),
        (["6", "12"], [0.5, 0.0], [1]),
        (["6", "12"], [0.5, 0.25], [0, 1]),
        (["6", "12"], [0.0, 0.0], [0, 1]),
        (["6", "12", "6", "12"], [0.0, 0.5, 0.0, 0.0], [0, 2]),
    ],
)
def test_which_of_the_copies_is_suspect(answers: list[str], rates: list[float] | None, suspect: list[int]) -> None:
    assert sorted(contradicting([TRIANGLE] * len(answers), answers, rates)) == suspect


def test_primes_and_factorials_are_symbols() -> None:
    texts = ["What is the length of the side $A'B$ here?", "What is the length of the side $AB$ here?"]
    assert contradicting(texts, ["1", "2"]) == []
    texts = ["What is the last digit of 5! in base 7?", "What is the last digit of 5 in base 7?"]
    assert contradicting(texts, ["1", "2"]) == []


def test_copies_of_a_test_set_may_differ_in_a_word_and_in_no_number() -> None:
    test = ["Anna has 12 red apples and gives 5 of them to her brother Tom. How many apples does she still have left?"]
    pool = [
        test[0].upper(),
        test[0].replace("red", "green"),
        test[0].replace("12", "13"),
        "Tom has 12 cars and sells 5 of them. What is the number of cars in his garage now?",
    ]
    found = copies_of(["a", "b", "c", "d"], pool, test, "test.jsonl")
    assert [one.prompt_id for one in found] == ["a", "b"]
    assert "problem 0 (counted from 0) of test.jsonl: 'Anna has 12" in found[0].evidence


def agreed(texts: list[str], correct: list[bool], reference: str, verifier: str = "math") -> Agreement | None:
    return agreement("p", "s", reference, texts, correct, verifier)


def test_agreement_is_on_what_the_responses_say() -> None:
    other = ["the answer is 5", r"\boxed{5.0}", "#### 5", "so it is $5$", r"\boxed{\frac{10}{2}}", "= 5", "5"]
    found = agreed([*other, "6"], [False] * 8, "4")
    assert found == Agreement("p", "s", 8, 7, "5")
    assert agreed([*other[:-1], "6", "7"], [False] * 8, "4") is None
    assert agreed([*other, "4"], [False] * 7 + [True], "4") == found
    assert agreed(other[:6], [False] * 6, "4") is None  # too few to tell
    assert agreed(["5"] * 8, [True] * 8, "5") == Agreement("p", "s", 8, 8, "")
    assert agreed([r"\boxed{5}"] * 8, [False] * 8, "5") is None  # judged wrong for another reason
    assert agreed(["(B) Paris"] * 8, [False] * 8, "C", "choice") == Agreement("p", "s", 8, 8, "B")


def test_agreement_counts_where_it_is_right_as_a_rule() -> None:
    right = [Agreement(f"r{k}", "easy", 8, 8, "") for k in range(4)]
    wrong = [Agreement(f"w{k}", "hard", 8, 8, "1") for k in range(2)]
    disputes = disputed([*right, Agreement("x", "easy", 8, 7, "5"), *wrong])
    assert [one.prompt_id for one in disputes] == ["x"]
    assert disputes[0].evidence == (
        "7 of 8 responses agree on '5'; of 5 prompts of this source with such agreement, "
        "4 agree with the reference answer"
    )


@pytest.mark.parametrize(
    ("answer", "readable"),
    [
        ("72", True), ("-1", True), ("$5", True), ("50%", True), (r"\frac{1}{2}", True), ("(1, 2]", True),
        (r"\pi", True), (r"\{1, 2\}", True), ("Evelyn", True), ("no solution", True),
        (r"\text{June 20}", True), ("x < 3", True),
        (r"\frac{1}{", False), (r"\frac{1}", False), (r"\left(1, 2", False), ("3 +", False), ("see solution", False),
        ("N/A", False), ("?", False), ("9" * 1001, False), (r"\sqrt", False),
        ("We see that there are as many of them as there are roots", False),
        ('["?", "3"]', True), ('["?", "3 +"]', False),
    ],
)  # fmt: skip
def test_answers_that_no_response_can_match(answer: str, readable: bool) -> None:
    assert (unreadable(["p"], [answer]) == []) == readable


def test_verdicts_that_say_nothing() -> None:
    assert undecided("p", Counter(timeout=3), 4) == ("p", "undecided", "3 of 4 responses ended in a timeout")
    assert undecided("p", Counter(timeout=2), 4) is None
    assert undecided("p", Counter(timeout=2, crash=2), 5) is None


def test_real_problems_are_left_alone(data_dir: Path) -> None:
    """Of GSM8K nothing is suspect by its text; two copies in another layout and with another answer are."""
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "train.jsonl").open()]
    texts, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    ids = [str(k) for k in range(len(rows))]
    rates = np.full(len(ids) + 1, np.nan)
    assert contradictions(ids, texts, answers, rates[1:]) == unreadable(ids, answers) == []
    copy = texts[5].lower().replace(",", "")
    assert [one.prompt_id for one in contradictions([*ids, "c"], [*texts, copy], [*answers, "1"], rates)] == ["5", "c"]
    test = [json.loads(line)["question"] for line in (data_dir / "gsm8k" / "test.jsonl").open()]
    assert copies_of(ids, texts, test, "test.jsonl") == []
    assert len(copies_of(ids[:10], test[:10], test, "test.jsonl")) == 10


def test_the_command_and_the_report_list_them(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "problem": "add the numbers 12+30 and 7", "answer": "49"},
        {"id": "b", "problem": "Add numbers 12+30, and 7", "answer": "48"},
        {"id": "c", "problem": "34+51", "answer": r"\frac{1}{"},
        *({"id": f"d{k}", "problem": f"{20 + k}+{31 + k}", "answer": str(51 + 2 * k)} for k in range(5)),
    ]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": "Add: the numbers 12+30 and 7"}) + "\n")
    run = tmp_path / "run"
    command = ["run", str(run), "--pool", str(pool), "--model", str(POLICY), "--select", "2", "--quiet"]
    early = CliRunner().invoke(app, ["suspects", str(tmp_path)])
    assert early.exit_code == 2
    assert "is not a run directory" in early.stderr
    small = ["--set", "rollout.max_new_tokens=8", "--set", "reward.verifier=exact", "--set", "sketch.dimension=1024"]
    done = CliRunner().invoke(app, [*command, *small])
    assert done.exit_code == 0, done.stderr
    page = (run / "report.html").read_text()
    assert "Suspect reference answers" in page
    assert "whose answer is" in page
    listed = CliRunner().invoke(app, ["suspects", str(run), "--against", str(test), "--json"])
    found = [(one["signal"], one["prompt_id"]) for one in json.loads(listed.stdout)]
    assert ("unreadable", "c") in found
    assert {one for one in found if one[0] == "test set"} == {("test set", "a"), ("test set", "b")}
    assert [SIGNAL for SIGNAL in SIGNALS if SIGNAL in dict(found)] == list(dict.fromkeys(signal for signal, _ in found))
    lines = [json.loads(line) for line in (run / "suspects.jsonl").read_text().splitlines()]
    assert {line["prompt_id"]: line["row"] for line in lines if line["signal"] == "unreadable"} == {"c": 2}
    shown = CliRunner().invoke(app, ["suspects", str(run)]).stdout
    assert "unreadable: 1 (the verifier cannot read the reference answer)" in shown
    assert "test set: 0" in shown
    notes = json.loads((run / "manifest.json").read_text())["stages"]["report"]["notes"]
    assert "have a suspect reference answer" in notes[0]
