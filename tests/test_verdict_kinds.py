"""Kinds of answers that checkers are known to get wrong: each with many spellings, right ones and wrong ones."""
# ruff: noqa: RUF001 (look-alike characters and Chinese are among them)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from learnalign.rewards import Verifier, make_verifier

SAME = {
    "one symbol, a call or a name on the left": [
        ("5", "x=5"), ("5", "x_1 = 5"), ("5", "f(3) = 5"), ("5", "f^{-1}(2)=5"), ("5", r"\theta = 5"),
        ("5", "AB = 5"), ("5", r"\angle ABC = 5^\circ"), ("5", r"\text{Area} = 5"), ("5", "S_{10} = 5"),
        ("5", "5 = x"), ("5", "x' = 5"), (r"\frac{1}{2}", r"\sin x = \frac{1}{2}"),
        (r"\frac{1}{2}", r"P(A) = \frac12"), ("2x+1", "f(x) = 2x+1"), ("f(x) = 2x+1", "2x+1"), ("n = 3k", "3k"),
        ("(1,2)", "(x,y) = (1,2)"), ("(x, y) = (1, 2)", "(1,2)"), ("72", "48+24 = 72"),
        ("6", r"x = 2 \cdot 3 = 6"), ("6", r"A = \frac{1}{2} \cdot 3 \cdot 4 = 6"), ("5", "x=y=5"),
        (r"\sqrt{2}", r"x = \sqrt{2}"), ("7:32", "a:b = 7:32"),
    ],
    "lists without order": [
        ("100, 200", "200, 100"), ("100, 200", "100,200"), (r"100 \text{ and } 200", "200, 100"),
        ("1 and 2", "2, 1"), ("1,2,3", r"3, 2 \text{ and } 1"), ("1; 2", "2, 1"), ("81, 256", "256,81"),
        ("x=2 or x=3", "2, 3"), (r"x = 2 \text{ or } x = 3", "x=3, x=2"), ("2, 3", r"\{3, 2\}"),
        ("1,000, 2,000", "1000, 2000"), ("(1,2),(3,4)", "(3,4), (1,2)"), (r"\pm 3", "3, -3"),
        ("-3, 3", r"\pm 3"), (r"x = \pm 3", "x=3 or x=-3"), ("a=4,-8", "-8, 4"),
        ("red and blue", "blue and red"),
    ],
    "tuples and assignments": [
        ("(1,000, 2,000)", "(1000, 2000)"), ("(1,2)", "x=1, y=2"), ("x=1, y=2", "y=2, x=1"),
        ("x=1,y=2", "(1,2)"), (r"(\frac{1}{2}, 3)", "(0.5, 3)"), ("(1,2)", "1,2"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"), (r"\left(1, 2\right]", "(1,2]"), ("(5)", "5"),
        ("[70]", "70"),
    ],
    "words": [
        ("True", "true"), ("true", r"\text{True}"), ("Yes", "yes."), ("No", "NO"), (r"\text{blue}", "Blue"),
        ("HTH", "HTH"), ("xy", "yx"), ("ab", "ba"), (r"\text{Saturday}", "saturday"),
    ],
    "units": [
        ("5", "5 times"), (r"3 \text{ times}", "3"), ("5 million", "5,000,000"),
        (r"5\text{ million}", "5 million"), ("5000000", r"5 \text{ million}"), ("2.5 thousand", "2500"),
        ("24", "2 dozen"), ("15 km/h", "15"), ("15", "15 m/s"),
        (r"15 \mathrm{~km} / \mathrm{h}", r"15 \text{ km/h}"), ("15", r"15 \frac{m}{s}"),
        ("60 mph", "60 miles per hour"), ("15", r"15 \text{ meters per second}"), ("9.8", r"9.8 \text{ m/s}^2"),
        ("15 m^2", "15 square meters"), ("15", r"15 \text{ cm}^3"),
        ("2 hours 30 minutes", "2 hours and 30 minutes"), ("5 feet 6 inches", "5 ft 6 in"),
        ("5", r"\text{5 apples}"), ("7", r"\text{approximately } 7"), ("7", r"\approx 7"),
        ("7", r"\text{The answer is } 7"), ("42", "42元"), ("5 m", "5 meters"), ("3 L", "3 liters"),
        ("120 minutes", "120 min"),
    ],
    "currency": [
        ("30", "Rs. 30"), ("30", "₹30"), ("30", "30 USD"), ("30", "USD 30"), ("30", "€30"), ("30", "30 €"),
        ("30", r"30\$"), (r"\$30", "30 dollars"), (r"\$1,200.50", "1200.5"), ("-5", "-$5"), ("-5", "$-5"),
        ("1500", "$1.5k"), ("2000000", r"\$2 \text{ million}"), ("30", "£30"), (r"30 \text{ yuan}", "30元"),
    ],
    "radicals, constants and repeating decimals": [
        (r"\frac{\sqrt{2}}{2}", "√2/2"), (r"\frac{\sqrt{2}}{2}", "√(2)/2"), (r"\sqrt{3}", r"\sqrt3"),
        (r"2\sqrt{3}", r"2\sqrt 3"), (r"\sqrt{x}", r"\sqrt x"), (r"\sqrt{12}", r"2\sqrt3"),
        (r"0.\overline{3}", r"\frac{1}{3}"), ("1/6", r"0.1\overline{6}"), (r"0.\overline{142857}", "1/7"),
        ("2*pi*r", r"2\pi r"), ("e^x", "exp(x)"), (r"e^{i\pi/3}", r"\frac12+\frac{\sqrt3}{2}i"),
        (r"10^6\sqrt{2}", "1414213.56"), (r"\pi", "3.14159265"), ("e", "2.718281828"), (r"\sin x", "sin x"),
        ("1/2", "^1/_2"),
    ],
    "sets with a name": [
        (r"\emptyset", r"\varnothing"), (r"\varnothing", "∅"), (r"\emptyset", r"\text{no solution}"),
        (r"\mathbb{R}", "ℝ"), (r"\mathbb{R}", r"\text{all real numbers}"),
        (r"(-\infty, \infty)", r"\mathbb{R}"), (r"\infty", r"+\infty"),
        (r"m \ge \sqrt{2}", r"m \in [\sqrt{2}, \infty)"), ("[-2,7]", r"x \in [-2,7]"),
    ],
    "percent": [
        ("50%", "50"), ("50%", r"50\,\%"), ("150%", "1.5"), (r"33\frac{1}{3}\%", r"\frac{100}{3}\%"),
        ("28%", "28 pct"), (r"x\%", r"x\%"), ("50%", "50％"), ("20 percent", r"20\%"),
    ],
    "equations": [
        ("x^2+y^2=4", "y^2+x^2-4=0"), ("x+y=2", "2x+2y=4"), ("y=2x+1", "2x-y+1=0"),
        ("34x+45y-20z+100=0", "-34x-45y+20z-100=0"), ("y=2x+1", "y = 1+2x"),
    ],
    "times and angles": [
        ("2:30 p.m.", "2:30 PM"), ("2:30", "2:30 p.m."), (r"2\!:\!30 \text{ p.m.}", "2:30 pm"),
        (r"90^\circ", r"\frac{\pi}{2}"), (r"\frac{\pi}{3}", r"60^\circ"), ("20^\\circ C", r"20^\circ"),
        ("90", "90 degrees"), (r"20 \text{ degrees}", r"20^\circ"),
    ],
}  # fmt: skip
DIFFERENT = {
    "a left side that says something": [
        ("5", "2x=5"), ("5", "x+y=5"), ("4", "x^2+y^2=4"), ("1", "2x+z=1"), ("5", "x^2=5"), ("5", "-x=5"),
        ("5", "5x=5"), ("5", "x=3 or x=5"), ("5", r"x=3 \text{ or } x=5"), ("5", "x=3, x=5"), ("5", "x=3 or 5"),
        ("5", "x=3; y=5"), ("7 = 11a+c", "11a+c"), ("73", "48+24=73"), ("7", "3+5=7"), ("5", r"x \ne 5"),
        ("5", r"x \ge 5"), ("5", "x<5"), ("5", "x+1=5"), ("5", "xy=5"), ("5", r"\sqrt{x}=5"), ("5", "3x-2y=5"),
        ("3", "n=3k"), ("5", "|x|=5"), ("x=5", "y=5"),
    ],
    "numbers run together": [
        ("81256", "81, 256"), ("81, 256", "81256"), ("100, 200", "100200"), ("100200", "100, 200"),
        ("1,2", "12"), (r"100 \text{ and } 200", "100200"), ("(1, 234)", "1234"), ("2100", "2, 100"),
        ("12", "1; 2"),
    ],
    "words that share their letters": [
        ("tea", "eat"), ("stop", "post"), ("no", "on"), ("HTH", "HHT"), ("WBW", "WWB"), ("ACGT", "GTAC"),
        ("listen", "silent"), (r"\text{north}", "thorn"), ("is", "si"), ("True", "False"), ("yes", "no"),
        ("John", "Johnny"), (r"\text{act}", "cat"), ("red and blue", "red and green"), ("RRB", "BRR"),
    ],
    "exact numbers that rounding would make equal": [
        ("10^{-100}", "11^{-100}"), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), ("2^{200}", "2^{200}+1"),
        ("3^{1000}", "3^{1000}+1"), ("100!", "100!+1"), (r"\sqrt{10^{20}+1}", "10^{10}"),
        (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{6}"), (r"1+\sqrt{2}\cdot 10^{-8}", "1"),
        (r"10^{-9}x", "0"), ("0", "10^{-20}"), (r"2^{50}\sqrt{2}", r"2^{50}\sqrt{2}+1"), ("n!", "n"),
        ("5!", "5"),
    ],
    "equations": [
        ("y=2x+1", "y=2x-1"), ("y=x^2", "x=y^2"), ("x^2+y^2=4", "x^2+y^2=9"), ("x=5, y=3", "x=3, y=5"),
        ("x+y=2", "x+y=3"), ("x^2=4", "x=2"), ("y=x", "y=x^2"), ("xy=1", "x=1"),
    ],
    "units": [
        ("5", "5 million"), ("5 million", "5"), ("5 km", "5 m"), ("60 mph", "60 km/h"), ("5 km/h", "5 m/s"),
        ("5 hours", "5 minutes"), ("2 hours 30 minutes", "2 hours 45 minutes"), ("5 dollars", "5 cents"),
        ("5", "5 hundred"), ("5", "5 apples and 3 pears"), ("8", r"5\text{ apples and }3\text{ pears}"),
        ("5", r"\text{more than } 5"), (r"20^\circ C", r"20^\circ F"),
        (r"20^\circ\text{C}", "20 degrees Fahrenheit"), ("€5", "5 dollars"), ("5 cm^2", "5 cm^3"),
        ("3", "3 R 1"), ("5", "5 dozen"),
    ],
    "times of day": [
        ("12:00", "1:00"), ("2:30 p.m.", "2:30 a.m."), ("12:30", "1:30"), ("2:30", "2:03"), ("3:2", "2:3"),
        ("2:15 PM", "2:51 PM"),
    ],
    "repeated elements and order": [
        (r"\{1,1,2\}", r"\{1,2\}"), ("3", "3, 3"), ("1, 1, 2", "1, 2, 2"), ("(1,2)", "(2,1)"),
        ("(2,1)", "x=1, y=2"), ("(1,2),(3,4)", "(1,2),(4,3)"), ("[1,2]", "(1,2)"), ("(1,2]", "[1,2)"),
        (r"\{1,2\}", "(1,2)"), ("1,2", "1,2,3"), ("[1,2]", "1,2"), ("1, 2", "1"), ("(1,2,3)", "(1,2)"),
        ("5", "3, 4, 5"), ("3", r"3 \mid 5"), ("3", r"3\quad 5"), ("3", "3/5/7"),
    ],
    "percent": [
        ("25%", "0.25%"), ("0.1", "0.1%"), ("x", r"50\%"), (r"50\%", "x+1"), (r"33\frac{1}{3}\%", "33.33%"),
        ("5%", "50"),
    ],
    "what is no number": [
        ("5", r"\text{NaN}"), (r"\frac{1}{0}", r"\frac{2}{0}"), (r"\text{none of these}", "5"),
        (r"\infty", r"-\infty"), ("2i", "2"), ("5", r"\emptyset"), (r"\mathbb{R}", "0"),
        (r"\text{undefined}", r"\frac{1}{0}"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> Iterator[Verifier]:
    with make_verifier("math", workers=1, timeout_seconds=30.0, memory_mb=2048) as made:
        yield made


@pytest.mark.parametrize("kind", SAME)
def test_the_same_in_another_spelling(judge: Verifier, kind: str) -> None:
    pairs = SAME[kind]
    verdicts = judge.judge([f"So we have $\\boxed{{{found}}}$." for _, found in pairs], [gold for gold, _ in pairs])
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict.correct] == []


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_though_it_looks_alike(judge: Verifier, kind: str) -> None:
    pairs = DIFFERENT[kind]
    verdicts = judge.judge([f"So we have $\\boxed{{{found}}}$." for _, found in pairs], [gold for gold, _ in pairs])
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct] == []
    assert {verdict.how for verdict in verdicts} <= {"wrong", "unevaluated"}


STATED = [
    "Final Answer: The final answer is $%s$. I hope it is correct.",
    "<think>It might be 3, or \\boxed{9}.</think>\n<answer>%s</answer>",
    "<think>\nMaybe \\boxed{99}?\n</think>\nThe answer is %s.",
    "It might be \\boxed{99}.</think>\n\nThe answer is \\boxed{%s}.",
    "<answer>The answer is %s.</answer>",
    "<answer>\n\\boxed{%s}\n</answer>",
    "The answer is %s, which is more than 2.",
    "The answer is $%s$, because 3 of them remain.",
    "The answer is %s, since we started with 8.",
    "答案是%s。",
    "答案：%s",
    "**答案：** %s",
    "所以答案为%s。",
    "La réponse est %s.",
    "La respuesta es %s.",
    "Die Antwort lautet %s.",
    "Answer - %s",
    "ANSWER: %s",
    '"Answer": "%s"',
    "**Final Answer**: $%s$",
    "\\boxed{\\text{Answer: }%s}",
    "\\boxed{\\textcolor{red}{%s}}",
    "\\boxed{\\bf %s}",
    "\\\\boxed{%s}",
    "boxed{%s}",
    "\\boxed{} is to hold the answer: the answer is %s",
    "$\\boxed{\\boxed{%s}}$",
    "### Final Answer\n\n%s",
    "#### %s",
]


@pytest.mark.parametrize("phrase", STATED)
@pytest.mark.parametrize("answer", ["72", "-3", "1,234", r"\frac{1}{2}", "0.25"])
def test_where_answers_are_stated(judge: Verifier, phrase: str, answer: str) -> None:
    assert judge.judge([phrase % answer], [answer])[0].correct
    assert not judge.judge([phrase % answer], ["99"])[0].correct


@pytest.mark.parametrize(
    ("response", "gold", "correct"),
    [
        (r"$\boxed{2}$ and $\boxed{3}$", "2, 3", True),
        (r"\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}", "(2,2),(6,2)", True),
        (r"\boxed{k = 45}, \boxed{n = 2}", "k = 45, n = 2", True),
        (r"$\boxed{7}$ $\boxed{7}$", "7", True),
        (r"\boxed{1}, \boxed{2}, \boxed{3}", "3", False),
        (r"first \boxed{1}, in the end \boxed{2}", "2", True),
        (r"first \boxed{1}, in the end \boxed{2}", "1, 2", False),
        (r"\boxed{5}. Wait, that is wrong. \boxed{7}", "5", False),
        (r"<think>\boxed{5}", "5", False),  # cut off
        ("<think>The answer is 5.</think>\n\nI cannot solve this.", "5", False),
        ("<think>Is it red? The answer is red.</think>\n\nblue", "blue", True),
        ("<answer>blue</answer>", "red", False),
        ("<answer>5</answer> I mean <answer>6</answer>", "6", True),
        ("<answer>5</answer> I mean <answer>6</answer>", "5", False),
        (r"\boxed{18}", "Janet sells 9 eggs.\nShe makes 9 * 2 = $18.\nA: 18", True),
        (r"\boxed{9}", "Janet sells 9 eggs.\nShe makes 9 * 2 = $18.\nA: 18", False),
    ],
)
def test_which_part_of_a_response_counts(judge: Verifier, response: str, gold: str, correct: bool) -> None:
    assert judge.judge([response], [gold])[0].correct is correct


def test_equality_has_a_direction_in_no_kind(judge: Verifier) -> None:
    """What differs, differs the other way round too."""
    pairs = [(gold, found) for kind in DIFFERENT.values() for gold, found in kind if "=" not in gold + found]
    verdicts = judge.judge([f"$\\boxed{{{gold}}}$" for gold, _ in pairs], [found for _, found in pairs])
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct] == []
