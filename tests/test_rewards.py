"""Answer verification: what is the final answer, what counts as equal, and workers that hang or die."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from learnalign.errors import RewardError
from learnalign.rewards import Verdict, Verifier, make_verifier
from learnalign.rewards.answers.extract import final_answer, last_box
from learnalign.rewards.answers.math import MathVerifier
from learnalign.rewards.answers.normalize import normalize
from learnalign.rewards.answers.quantity import quantity
from learnalign.rewards.workers import Question, WorkerPool

HANG = r"\boxed{5^{5^{5^{5}}}}"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def judge() -> Iterator[Verifier]:
    with make_verifier("math", workers=1, timeout_seconds=20.0, memory_mb=2048) as made:
        yield made


@pytest.fixture(scope="module")
def exact() -> Verifier:
    return make_verifier("exact", workers=1, timeout_seconds=1.0, memory_mb=256)


def one(judge: Verifier, response: str, answer: str) -> Verdict:
    return judge.judge([response], [answer])[0]


# --- the final answer of a response


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{72}.", "72"),
        (r"\boxed{1}, no: \boxed{2}", "2"),  # the last one counts
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces are no braces
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"$\fbox{7}$", "7"),
        (r"\boxed 7.", "7"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234\n", "1,234"),
        ("#### Step 1\nadd them\n#### 7\nQuestion: what next?", "7"),  # headings and what runs on
        (r"#### 5 or so; \boxed{6}", "6"),  # a box before hashes
        ("The answer is 7. I hope that this answer is correct.", "7"),
        ("The final answer to the problem is $\\frac{1}{2}$.", r"\frac{1}{2}"),
        ("**Answer:** 42", "42"),
        ("The answer is $\\$36$.", r"\$36"),
        ("The answer is: 72 clips in April and May, 2 months.", "72 clips"),
        ("The answer is therefore 3.\nShe keeps 9.", "3"),
        ("She sold 48/2 = <<48/2=24>>24", "24"),
        ("12+5=17", "17"),
        ("it is 17.", "17"),
        ("it is $1,200.", "$1,200"),
        ("thus $x = \\frac{3}{4}$.", r"\frac{3}{4}"),
        ("thus the point is \\((3, 4)\\).", "(3, 4)"),
        ("east", "east"),
    ],
)
def test_final_answer(response: str, answer: str) -> None:
    found = final_answer(response)
    assert found is not None
    assert found.text == answer


@pytest.mark.parametrize(
    "response",
    [
        r"the sum is 12, so \boxed{12",  # cut off: 12 or 120?
        r"\boxed{12} and then \boxed{1",
        r"\boxed{}",
        "no number " * 40,
    ],
)
def test_no_final_answer(response: str) -> None:
    assert final_answer(response) is None


def test_unmarked_operand_is_no_answer(exact: Verifier) -> None:
    for response in ("first 10 - 5", "first 10 + 5", "so 5 * 3", "and 5 = y - x", "2^5", "x5"):
        assert not one(exact, response, "5").correct, response


# --- equal and different, without any process


@pytest.mark.parametrize(
    ("gold", "candidate"),
    [
        ("3,000", "3000"),
        ("3000", r"3{,}000"),
        (r"10,\!080", "10080"),
        (r"11,\! 111,\! 111,\! 100", "11,111,111,100"),
        ("1000000", "1 000 000"),
        ("72", "72.0"),
        ("72", " 72 . "),
        ("-5", "\u22125"),
        ("-5", "- 5"),
        ("72", "\uff17\uff12"),  # full-width digits
        ("1/2", r"\frac12"),
        ("1/2", "0.5"),
        ("1/2", r"-\frac{-1}{2}"),
        ("-1/2", r"\dfrac{-1}{2}"),
        (".35625", "0.35625"),
        (r"1\frac{4}{5}", "9/5"),
        (r"137 \frac{1}{2}", "137.5"),
        ("1/3", "0.333333"),
        ("2/3", "0.666667"),
        ("2/3", "0.666666"),
        ("300000000", r"3 \times 10^{8}"),
        ("0.00012", "1.2e-4"),
        ("50%", "50\\%"),
        ("50%", "0.5"),
        ("0.5", "50%"),
        ("50", "50%"),
        ("50%", "50 percent"),
        ("12.5", r"12.5\%"),
        ("36", r"\$36"),
        (r"\$18.90", "18.9"),
        ("5 dollars", "$5"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"864 \mbox{ inches}^2", "864 square inches"),
        (r"15\mbox{ cm}^2", "15"),
        ("72", "72 apples"),
        ("90", r"90^\circ"),
        (r"30^{\circ}", "30 degrees"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
        ("4210_5", "4210_{5}"),
        ("4210_5", "4210"),
        ("x=5", "5"),
        ("5", "x = 5"),
        ("y = 2x + 3", "2x+3"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{(C)}", "C"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\dfrac{\pi}{2})"),
        ("Natalia sold 48/2 clips.\n#### 72", "72"),
        (r"we get \boxed{72}.", "72"),
        ("1,-2", "-2, 1"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}"),
        ("(3,4]", r"\left(3, \frac{8}{2}\right]"),
        ("(1,-16,-4,43)", r"(1,-16,-\frac{8}{2},43)"),
    ],
)
def test_exactly_equal(exact: Verifier, gold: str, candidate: str) -> None:
    assert one(exact, f"So we have \\boxed{{{candidate}}}.", gold) == Verdict(True, 1.0, "exact")


DIFFERENT = [
    ("12", "120"),
    ("12", "1/2"),
    ("12", "1 2"),
    ("12", "1.2"),
    ("12", "-12"),
    ("52", "5\u00b2"),  # a superscript is no digit
    ("3000", "3,00"),
    ("3.5", "3,5"),
    ("1/3", "0.333"),
    ("1/3", "0.333334"),
    ("1/3", "-0.333333"),
    ("0.5", "0.5%"),
    ("0.5", "50"),
    ("50", "0.5"),
    ("5%", "6%"),
    ("5 cm", "5 m"),
    (r"15\text{ cm}^2", r"15\text{ cm}^3"),
    ("5 dollars", "5 cents"),
    ("5", "5 million"),
    ("5", r"5\pi"),
    ("5", "5 pi"),
    ("4210_5", "4210_6"),
    ("5", "5t"),
    ("5t", "5"),
    ("2", "x=1, y=2"),
    (r"\text{Evelyn}", "Navin"),
    ("A", "a"),
    ("C", "B"),
    ("72", "48 + 24"),
    ("72", r"6 \times 12"),
    ("72", "100 - 28"),
]


@pytest.mark.parametrize(("gold", "candidate"), DIFFERENT)
def test_different(exact: Verifier, judge: Verifier, gold: str, candidate: str) -> None:
    for each in (exact, judge):
        found = one(each, f"So we have \\boxed{{{candidate}}}.", gold)
        assert (found.correct, found.reward) == (False, 0.0), found


def test_marked_answer_is_not_rescued(judge: Verifier) -> None:
    assert not one(judge, r"The answer is \boxed{8}. It is not 7", "7").correct
    assert not one(judge, r"\boxed{7}? No, \boxed{8}. Rather than 7", "7").correct
    assert not one(judge, "#### 8\nand 7", "7").correct
    assert not one(judge, "The answer is 8. Far from 7", "7").correct


def test_numbers_are_rationals() -> None:
    rng = random.Random(7)
    for _ in range(300):
        top, bottom = rng.randint(-999, 999), rng.randint(1, 99)
        spelled = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}"]
        read = [quantity(normalize(text)) for text in spelled]
        assert all(number is not None for number in read)
        assert len({number.value for number in read if number}) == 1
        grouped = quantity(normalize(f"{top * 12345:,}"))
        assert grouped is not None
        assert grouped.value == top * 12345


# --- math-verify


@pytest.mark.parametrize(
    ("gold", "candidate"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
        (r"\frac{\sqrt{2}}{2}", "sqrt(2)/2"),
        (r"11\sqrt2", r"\sqrt{242}"),
        ("1024", "2^{10}"),
        ("2", r"\sqrt{4}"),
        ("6-5i", "-5i + 6"),
        ("(a+5)(b+2)", "ab + 2a + 5b + 10"),
        (r"(2,\infty)", "x > 2"),
        (r"(0,9) \cup (9,36)", r"(0,36)\setminus\{9\}"),
        (r"x \in [-2,7]", "[-2,7]"),
        (
            r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
            r"\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix}",
        ),
        ("5x - 7y + 11z + 4 = 0", "5x - 7y + 11z = -4"),
        (r"\pi", "3.141593"),
    ],
)
def test_equal_as_mathematics(judge: Verifier, gold: str, candidate: str) -> None:
    assert one(judge, f"Hence \\boxed{{{candidate}}}.", gold) == Verdict(True, 1.0, "math-verify")


@pytest.mark.parametrize(
    ("gold", "candidate"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{\sqrt{3}}{2}"),
        ("(3,4]", "(3,4)"),
        ("(3,4]", "[3,4]"),
        ("(8,-2)", "(-2,8)"),
        ("(8,-2)", "(9,-3)"),
        ("(1,2)", r"\{1,2\}"),
        (r"\{1,2\}", "(1,2)"),
        ("1,-2", "-2"),
        ("3, 5, 7", "3, 5"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
        ("2x+3", "2y+3"),
        ("6-5i", "6+5i"),
        (r"\pi", "3.14"),
        (r"\pi", r"\frac{22}{7}"),
        ("10^{-8}\\pi", "0.00000001"),  # six decimals would round both to zero
        (r"\infty", r"-\infty"),
        (r"\frac{1}{0}", "1"),
    ],
)
def test_different_as_mathematics(judge: Verifier, gold: str, candidate: str) -> None:
    assert one(judge, f"Hence \\boxed{{{candidate}}}.", gold) == Verdict(False, 0.0, "wrong")


def test_arithmetic_left_undone_is_named(judge: Verifier) -> None:
    assert one(judge, r"\boxed{48 + 24}", "72").how == "unevaluated"
    assert one(judge, r"\boxed{48 + 24 = 72}", "72").correct


# --- input that is hard on a verifier


def test_hostile_responses_are_judged_fast() -> None:
    hostile = [
        "",
        " \n\t ",
        "\\" * MEGABYTE,
        "\\boxed{" + "\\" * MEGABYTE + "}",
        "\\boxed{" * (MEGABYTE // 7),
        "\\boxed{" + "{" * 200_000 + "7" + "}" * 200_000 + "}",
        "{" * MEGABYTE,
        "#" * MEGABYTE,
        "#### " * (MEGABYTE // 5),
        "#### a\n" * (MEGABYTE // 7),
        "#### 8 a\n" * (MEGABYTE // 9),
        "answer " * (MEGABYTE // 7),
        "answer is " * (MEGABYTE // 10),
        "<<" * (MEGABYTE // 2),
        "$" * MEGABYTE,
        "1" * MEGABYTE,
        "1," * (MEGABYTE // 2),
        "\\boxed" + " " * MEGABYTE + "1",
        "\u5b57\U0001f600\ud800" * 1000,
        "\\boxed{" + "(" * 900 + ")" * 50 + "}",
        "\\boxed{" + "\\frac{" * 160 + "}",
        "\x00\\boxed{\x00\u202e7\x00}",
    ]
    with MathVerifier(workers=1, timeout_seconds=1.0, memory_mb=2048) as judge:
        begun = time.process_time()
        verdicts = judge.judge(hostile, ["7"] * len(hostile))
        assert time.process_time() - begun < 60  # of this process: quadratic searches would take many minutes
    assert [verdict.correct for verdict in verdicts] == [False] * len(hostile)
    assert verdicts[0].how == verdicts[1].how == "empty"
    assert verdicts[3].how == "too long"


def test_expressions_that_are_hard_on_parsers_end_in_time() -> None:
    """Short enough to reach math-verify, whose expressions and grammar take exponential time on some of them."""
    hard = [
        "a" * 900,
        "-" * 900 + "1",
        "\\frac{1}{" * 80 + "1" + "}" * 80,
        "x=" * 300 + "1",
        "(1,2)\\cup" * 60 + "(3,4)",
        "10^{10^{10}}",
    ]
    with MathVerifier(workers=2, timeout_seconds=1.0, memory_mb=1024) as judge:
        verdicts = judge.judge([f"\\boxed{{{text}}}" for text in hard], [r"\sqrt{7}+x"] * len(hard))
    assert not any(verdict.correct for verdict in verdicts)
    assert {verdict.how for verdict in verdicts} <= {"wrong", "timeout", "crash", "error"}
    assert "timeout" in {verdict.how for verdict in verdicts}


def test_long_response_keeps_its_answer(exact: Verifier) -> None:
    filler = "we think about 3 things. " * (MEGABYTE // 25)
    assert one(exact, filler + r"\boxed{72}", "72").correct
    assert one(exact, r"\boxed{72}" + filler, "72").correct
    assert one(exact, filler + "so 72", "72").correct


def test_unicode(judge: Verifier) -> None:
    assert one(judge, "\\boxed{5\u00b2}", "25").correct
    assert one(judge, "Die L\u00f6sung: \\boxed{2\u00d710\u2075}", "200000").correct
    assert one(judge, "\\boxed{\u00bd}", "0.5").correct
    assert one(judge, "\\boxed{\u05d0}", "\u05d0").correct
    assert not one(judge, "\\boxed{\u05d0}", "\u05d1").correct


# --- processes


def math_pool(memory_mb: int = 2048) -> WorkerPool:
    return WorkerPool("learnalign.rewards.answers.math_worker", workers=1, memory_mb=memory_mb)


def compare(pool: WorkerPool, pairs: list[tuple[str, str]], seconds: float = 30) -> list[str]:
    """Of every pair: equal, different, timeout or crash."""
    outcomes = pool.run([Question(pair, seconds) for pair in pairs])
    return [outcome.lost or ("equal" if outcome.reply is True else "different") for outcome in outcomes]


def test_hang_is_cut_off_and_the_rest_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds for a question that takes milliseconds: only a hang uses them up, also on a busy machine."""
    asked: list[int] = []
    run = WorkerPool.run

    def counting(pool: WorkerPool, tasks: Sequence[Question]) -> list[Any]:
        asked.append(len(tasks))
        return run(pool, tasks)

    monkeypatch.setattr(WorkerPool, "run", counting)
    with MathVerifier(workers=1, timeout_seconds=10, memory_mb=2048) as judge:
        responses = [r"\boxed{\sqrt{9}}", HANG, r"\boxed{\sqrt{16}}", HANG, r"\boxed{\sqrt{25}}", "7"]
        verdicts = judge.judge(responses, ["3", "7", "4", "7", "6", "7"])
    assert [verdict.how for verdict in verdicts] == [
        "math-verify",
        "timeout",
        "math-verify",
        "timeout",
        "wrong",
        "exact",
    ]
    assert asked == [4], "equal questions are asked once"


def test_a_worker_that_gets_no_processor_time_loses_no_answer() -> None:
    """As on a busy machine: stopped for longer than the limit, which is of processor time, it still judges."""
    with MathVerifier(workers=1, timeout_seconds=1.0, memory_mb=2048) as judge:
        assert judge.judge([r"\boxed{\sqrt{9}}"], ["3"])[0].how == "math-verify"
        (worker,) = judge._pool.pids
        os.kill(worker, signal.SIGSTOP)
        timer = threading.Timer(2.5, os.kill, (worker, signal.SIGCONT))
        timer.start()
        (verdict,) = judge.judge([r"\boxed{\sqrt{16}}"], ["4"])
        timer.join()
        assert verdict.how == "math-verify"
        assert judge._pool.pids == [worker]


def test_a_worker_that_never_gets_processor_time_is_not_waited_for_without_end() -> None:
    with math_pool() as pool:
        assert compare(pool, [("2", r"\sqrt{4}")]) == ["equal"]
        os.kill(pool.pids[0], signal.SIGSTOP)
        (outcome,) = pool.run([Question(("3", r"\sqrt{9}"), 1.0, 30.0)])
        assert outcome.lost == "timeout"


SPINNING = """
import time
from learnalign.rewards.worker import serve

def answer(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return True

serve(lambda arguments, memory_mb: answer)
"""


def test_processor_time_is_counted_for_each_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several may together take more than the limit of one; one that takes more loses its answer alone."""
    (tmp_path / "spinning_worker.py").write_text(SPINNING)
    monkeypatch.syspath_prepend(str(tmp_path))
    with WorkerPool("spinning_worker", workers=1, memory_mb=1024) as pool:
        outcomes = pool.run([Question(seconds, 60.0, 1.0) for seconds in (0.4, 0.4, 0.4, 30.0, 0.4)])
    assert [outcome.lost for outcome in outcomes] == ["", "", "", "timeout", ""]


def test_number_of_workers_does_not_matter() -> None:
    rng = random.Random(3)
    golds = [rf"{rng.randint(2, 9)}\sqrt{{{rng.randint(2, 30)}}}" for _ in range(80)]
    responses = [rf"\boxed{{\sqrt{{{rng.randint(2, 400)}}}}}" for _ in golds]
    for index in range(0, 80, 2):  # half are right, spelled otherwise
        outer, inner = re.findall(r"\d+", golds[index])
        responses[index] = rf"\boxed{{\sqrt{{{int(outer) ** 2 * int(inner)}}}}}"
    found = []
    for workers in (1, 2):
        with MathVerifier(workers=workers, timeout_seconds=30, memory_mb=2048) as judge:
            found.append(judge.judge(responses, golds))
            assert len(judge._pool._workers) == workers
    assert found[0] == found[1]
    assert sum(verdict.correct for verdict in found[0]) >= 40
    assert {verdict.how for verdict in found[0]} <= {"exact", "math-verify", "wrong"}


def test_no_process_unless_needed(judge: Verifier) -> None:
    with MathVerifier(workers=2, timeout_seconds=5, memory_mb=2048) as fresh:
        fresh.judge(["#### 7", r"\boxed{8}", "", r"\boxed{3+4}"] * 100, ["7"] * 400)
        assert fresh._pool.pids == []


def test_killed_worker_is_replaced() -> None:
    with math_pool() as pool:
        pairs = [(rf"{n}\sqrt{{2}}", rf"\sqrt{{{2 * n * n}}}") for n in range(2, 12)]
        assert compare(pool, pairs) == ["equal"] * 10
        (first,) = pool.pids
        os.kill(first, signal.SIGKILL)  # while idle
        assert compare(pool, pairs) == ["equal"] * 10
        (second,) = pool.pids
        assert second != first

        timer = threading.Timer(0.7, os.kill, (second, signal.SIGKILL))  # while comparing
        timer.start()
        outcomes = compare(pool, [pairs[0], ("7", "5^{5^{5^{5}}}"), pairs[1]], 10.0)
        timer.join()
        assert outcomes == ["equal", "timeout", "equal"]  # killed once: tried again, and then it was too slow
        assert second not in pool.pids


FAILING = """
import sys
from learnalign.rewards.worker import serve

def answer(message):
    if message == "recursion":
        return answer(message)
    if message == "exit":
        sys.exit(3)
    if message == "no JSON":
        return object()
    return 1 / message

serve(lambda arguments, memory_mb: answer)
"""


def test_no_exception_ends_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_worker.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    with WorkerPool("failing_worker", workers=1, memory_mb=1024) as pool:
        messages = [2, 0, "recursion", "exit", "no JSON", "text", 4]
        outcomes = pool.run([Question(message, 30) for message in messages])
        assert [outcome.lost for outcome in outcomes] == ["", "error", "error", "error", "error", "error", ""]
        assert [outcomes[0].reply, outcomes[-1].reply] == [0.5, 0.25]
        (pid,) = pool.pids
        pool.run([Question(0, 30)])
        assert pool.pids == [pid]


def test_an_exception_in_judging_is_the_verdict_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(gold: str, candidate: str) -> bool:
        raise RecursionError if candidate == "x3" else ValueError

    with monkeypatch.context() as patch, make_verifier("exact", workers=1, timeout_seconds=30, memory_mb=2048) as judge:
        patch.setattr("learnalign.rewards.answers.exact.equal", fails)
        assert [v.how for v in judge.judge([r"\boxed{x3}", r"\boxed{x4}", ""], ["y"] * 3)] == [*["error"] * 2, "empty"]


FIRST = """\
import sys
from learnalign.rewards.answers.math_worker import prepare
answer = prepare([], 2048)
known = set(sys.modules)
for pair in {pairs!r}:
    answer(pair)
print(sorted(set(sys.modules) - known))
"""


def test_the_first_question_pays_for_no_import() -> None:
    pairs = [
        (r"\frac{{\sqrt2}}{{2}}", r"2^{-1/2}"),
        ("x^2+1", "1+x^2"),
        (r"(1,2]\cup\{4\}", r"x\in(1,2]"),
        ("x+y=1", "y=1-x"),
        (r"\pi", "3.1415926"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
        ("1<x<2", "x<2"),
        (r"\sin x", r"\cos x"),
        ("2^{10}", "1024+i"),
    ]
    ran = subprocess.run([sys.executable, "-P", "-c", FIRST.replace("{pairs!r}", repr(pairs))], capture_output=True)
    assert ran.stdout.decode().strip() == "[]", ran


def test_pair_that_kills_twice_is_a_crash() -> None:
    with math_pool() as pool:
        done = threading.Event()

        def assassin() -> None:
            while not done.wait(0.05):
                for pid in pool.pids:
                    with contextlib.suppress(ProcessLookupError):  # collected meanwhile
                        os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=assassin)
        thread.start()
        try:
            outcomes = compare(pool, [("7", "5^{5^{5^{5}}}")])
        finally:
            done.set()
            thread.join()
        assert outcomes == ["crash"]
        assert compare(pool, [("2", r"\sqrt{4}")]) == ["equal"]


def test_memory_limit_is_kept_and_too_little_is_an_error() -> None:
    with (
        math_pool(40) as pool,
        pytest.raises(RewardError, match=r"40 MiB.*memory_mb"),
    ):
        compare(pool, [("2", r"\sqrt{4}")])
    with math_pool(1024) as pool:
        assert compare(pool, [("2", r"\sqrt{4}")]) == ["equal"]
        if sys.platform == "linux":
            limits = Path(f"/proc/{pool.pids[0]}/limits").read_text()
            assert re.search(rf"Max address space\s+{1024 << 20}\s", limits)


SCRIPT = """
import sys, threading, time
from learnalign.rewards import make_verifier
judge = make_verifier("math", workers=1, timeout_seconds=30, memory_mb=2048)
judge.judge([r"\\boxed{\\sqrt{4}}"], ["2"])
print(judge.verifier._pool.pids[0], flush=True)
judge.judge([r"\\boxed{5^{5^{5^{5}}}}"], ["7"])
"""


def test_workers_die_with_a_killed_parent_and_ctrl_c_is_quiet() -> None:
    # No __main__ guard in that script, as in a notebook.
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,
        ) as parent:
            assert parent.stdout is not None
            worker = int(parent.stdout.readline())
            time.sleep(0.5)  # now it hangs in C
            (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
            _, messages = parent.communicate(timeout=300)
        deadline = time.monotonic() + 300
        while _alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(worker)
        assert messages.count("Traceback") == (1 if number == signal.SIGINT else 0)  # the parent's own


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_judging_works_in_a_thread(judge: Verifier) -> None:
    found: list[Verdict] = []

    def work() -> None:
        with MathVerifier(workers=1, timeout_seconds=30, memory_mb=2048) as mine:
            found.extend(mine.judge([r"\boxed{\sqrt{4}}"], ["2"]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [Verdict(True, 1.0, "math-verify")]


def test_judge_can_be_used_after_close() -> None:
    judge = make_verifier("math", workers=1, timeout_seconds=30, memory_mb=2048)
    assert one(judge, r"\boxed{\sqrt{4}}", "2").correct
    judge.close()
    judge.close()
    assert one(judge, r"\boxed{\sqrt{4}}", "2").correct
    judge.close()


# --- errors


def test_user_errors() -> None:
    with pytest.raises(RewardError, match=r"'best'.*math, exact"):
        make_verifier("best", workers=1, timeout_seconds=1, memory_mb=100)
    with pytest.raises(RewardError, match="found 0, 100"):
        make_verifier("math", workers=0, timeout_seconds=1, memory_mb=100)
    for name in ("exact", "math"):
        with make_verifier(name, workers=1, timeout_seconds=1, memory_mb=100) as judge:
            assert judge.judge([], []) == []
            with pytest.raises(RewardError, match="2 responses and 1 answers"):
                judge.judge(["1", "2"], ["1"])
            with pytest.raises(RewardError, match="position 1 is empty"):
                judge.judge(["1", "2"], ["1", " "])


# --- real data


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_gsm8k_solutions(judge: Verifier, data_dir: Path) -> None:
    solutions = [row["answer"] for row in _lines(data_dir / "gsm8k" / "train.jsonl")]
    golds = [solution.rpartition("####")[2].strip() for solution in solutions]
    assert len(golds) == 7473
    assert {verdict.how for verdict in judge.judge(solutions, golds)} == {"exact"}
    assert all(verdict.correct for verdict in judge.judge(solutions, solutions))
    changed = [str(int(gold.replace(",", "")) + 1) for gold in golds]
    assert not any(verdict.correct for verdict in judge.judge(solutions, changed))


def test_math_solutions(judge: Verifier, data_dir: Path) -> None:
    rows = _lines(data_dir / "math" / "math500.jsonl")
    golds = [row["answer"] for row in rows]
    assert all(verdict.correct for verdict in judge.judge([row["solution"] for row in rows], golds))
    rng = random.Random(0)
    sample = rng.sample([gold for gold in golds if re.search(r"\d", gold)], 120)
    changed = []
    for gold in sample:
        digit = rng.choice(list(re.finditer(r"\d", gold)))
        changed.append(gold[: digit.start()] + str((int(digit.group()) + 1) % 10) + gold[digit.end() :])
    wrong = judge.judge([rf"\boxed{{{text}}}" for text in changed], sample)
    assert [gold for gold, verdict in zip(sample, wrong, strict=True) if verdict.correct] == []
    assert all(last_box(rf"\boxed{{{gold}}}") == gold.strip() for gold in golds)
