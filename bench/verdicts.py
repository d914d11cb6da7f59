"""Do the verifiers agree with labelled data, and does a wrong program get past them?

Every reference solution of GSM8K (train) and MATH-500 is judged against its own answer, which has to be correct, and
against a changed one, which has to be wrong: a number of GSM8K plus one; for MATH-500 one digit changed, or where the
answer has no digit the answer of another problem. Verdicts that are not so are listed by name. Floor: the verifier
`exact`, which knows no algebra. Then labelled cases, beside math-verify and TRL's reward (`verdict_cases`), and
programs with tests, hacks and escapes (`verdict_programs`). Data sets are read from LEARNALIGN_DATA (see README).

    python -m bench.verdicts

The exit code is 1 if any verdict of a reference, a mutant, a hack or an escape is not as it has to be. The last line is
one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench import verdict_cases, verdict_programs
from bench.measure import finish
from learnalign.rewards import make_verifier


class Case(NamedTuple):
    """A reference solution, the answer it comes to, and one it does not come to."""

    name: str
    solution: str
    answer: str
    changed: str


def main() -> None:
    """Verifier, list, print."""
    data = Path(os.environ.get("LEARNALIGN_DATA") or "/nonexistent")
    if not (data / "gsm8k").is_dir():
        sys.exit("bench/verdicts.py: set LEARNALIGN_DATA to a folder with gsm8k/train.jsonl and math/math500.jsonl")
    counts: dict[str, dict[str, int]] = {}
    astray = 0
    for dataset, cases in (("gsm8k", gsm8k(data)), ("math500", math500(data))):
        for verifier in ("exact", "math"):
            found = judged(verifier, cases)
            counts[f"{dataset} {verifier}"] = found
            print(f"{dataset:<8} {verifier:<6} " + ", ".join(f"{value:,} {name}" for name, value in found.items()))
        astray += counts[f"{dataset} math"]["own judged wrong"] + counts[f"{dataset} math"]["changed judged correct"]
    labelled = verdict_cases.compare(data / "verdicts" / "cases.jsonl")
    programs = verdict_programs.judged(data)
    astray += sum(
        int(value)
        for found in programs.values()
        for what, value in found.items()
        if what.endswith(("judged wrong", "judged right", "not contained"))
    )
    finish(
        "verdicts",
        {"counts": counts, "cases": labelled, "programs": programs},
        "math-verify",
        "sympy",
        "latex2sympy2_extended",
        "trl",
    )
    sys.exit(1 if astray else 0)


def judged(verifier: str, cases: list[Case]) -> dict[str, int]:
    """Verdicts counted; those that are not as they have to be are listed."""
    started = time.monotonic()
    with make_verifier(verifier, workers=2, timeout_seconds=30, memory_mb=2048) as judge:
        solutions = [case.solution for case in cases]
        own = judge.judge(solutions, [case.answer for case in cases])
        changed = judge.judge(solutions, [case.changed for case in cases])
    for case, right, wrong in zip(cases, own, changed, strict=True):
        if verifier == "math" and not right.correct:
            print(f"  {case.name}: judged {right.how} against its own answer {case.answer!r}")
        if verifier == "math" and wrong.correct:
            print(f"  {case.name}: {case.answer!r} judged correct ({wrong.how}) against {case.changed!r}")
    return {
        "solutions": len(cases),
        "own judged wrong": sum(not verdict.correct for verdict in own),
        "changed judged correct": sum(verdict.correct for verdict in changed),
        "verdicts/s": round(2 * len(cases) / (time.monotonic() - started)),
    }


def gsm8k(data: Path) -> list[Case]:
    """Solutions that end in `#### number`."""
    cases = []
    for number, row in enumerate(_rows(data / "gsm8k" / "train.jsonl")):
        answer = row["answer"].rpartition("####")[2].strip()
        changed = str(int(answer.replace(",", "")) + 1)
        cases.append(Case(f"gsm8k/train/{number}", row["answer"], answer, changed))
    return cases


def math500(data: Path) -> list[Case]:
    r"""Solutions with a `\boxed` answer; the same digits change on every run."""
    rng = random.Random(0)
    rows = _rows(data / "math" / "math500.jsonl")
    cases = []
    for number, row in enumerate(rows):
        answer = row["answer"]
        digits = list(re.finditer(r"\d", answer))
        if digits:
            digit = rng.choice(digits)
            changed = answer[: digit.start()] + str((int(digit.group()) + 1) % 10) + answer[digit.end() :]
        else:
            changed = next(other["answer"] for other in rows[number + 1 :] + rows if other["answer"] != answer)
        cases.append(Case(row["unique_id"], row["solution"], answer, changed))
    return cases


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
