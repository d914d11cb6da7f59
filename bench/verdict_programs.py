"""Part of `bench.verdicts`: programs with tests. HumanEval and CRUXEval as references and as mutants, hacks, escapes.

HumanEval's reference solutions have to pass, and fail once their values are changed. CRUXEval's functions are tested as
MBPP does it, by an assert of a call, with their own value and with a changed one. Hacks (`tests/hacks.py`) are wrong
programs that try to be judged right; escapes (`tests/escape_attempts.py`) try to get out of the sandbox.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from learnalign.rewards import Prompt, Verifier, make_verifier

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))
CRUX = 200
"""Functions of CRUXEval that are looked at."""


def judged(data: Path) -> dict[str, dict[str, float]]:
    """Counts by set; prints them."""
    with make_verifier("code", workers=2, timeout_seconds=10, memory_mb=512) as judge:
        found = {"HumanEval": _human_eval(data, judge), "CRUXEval as MBPP": _crux(data, judge)}
    with make_verifier("code", workers=2, timeout_seconds=2, memory_mb=512) as judge:
        found["hacks"] = _hacks(judge)
    found["escapes"] = _escapes()
    for name, counts in found.items():
        print(f"{name:<20} " + ", ".join(f"{value:,} {what}" for what, value in counts.items()))
    return found


def _human_eval(data: Path, judge: Verifier) -> dict[str, float]:
    tests = import_module("test_code")
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    prompts = [Prompt(row["task_id"], row["prompt"], row=row) for row in rows]
    solutions = [row["canonical_solution"] for row in rows]
    changed = [
        tests.fenced(row["prompt"] + solution + tests.CHANGED.replace("{name}", row["entry_point"]))
        for row, solution in zip(rows, solutions, strict=True)
    ]
    return _both(judge, solutions, changed, [row["test"] for row in rows], [row["test"] for row in rows], prompts)


def _crux(data: Path, judge: Verifier) -> dict[str, float]:
    rows = [json.loads(line) for line in (data / "cruxeval" / "cruxeval.jsonl").read_text().splitlines()[:CRUX]]
    tests = [json.dumps([f"assert f({row['input']}) == {row['output']}"]) for row in rows]
    other = [json.dumps([f"assert f({row['input']}) == {_other(row['output'])}"]) for row in rows]
    codes = [row["code"] for row in rows]
    return _both(judge, codes, codes, tests, other, [Prompt(row["id"]) for row in rows])


def _other(value: str) -> str:
    """Another value of the same kind where that is easy."""
    found = ast.literal_eval(value)
    return repr(found + 1 if isinstance(found, int) else found + "x" if isinstance(found, str) else [found])


def _both(
    judge: Verifier,
    right: Sequence[str],
    wrong: Sequence[str],
    tests: Sequence[str],
    others: Sequence[str],
    prompts: Sequence[Prompt],
) -> dict[str, float]:
    started = time.monotonic()
    passed = judge.judge(right, tests, prompts)
    failed = judge.judge(wrong, others, prompts)
    seconds = time.monotonic() - started
    return {
        "programs": len(right),
        "references judged wrong": sum(not verdict.correct for verdict in passed),
        "mutants judged right": sum(verdict.correct for verdict in failed),
        "in one process": sum("one process" in verdict.how for verdict in passed),
        "verdicts/s": round((len(passed) + len(failed)) / seconds, 1),
    }


def _hacks(judge: Verifier) -> dict[str, float]:
    hacks = import_module("hacks")
    codes = [f"```python\n{code}\n```" for code in hacks.HACKS.values()]
    prompts = [Prompt("p", "", row={"entry_point": "double"})] * len(codes)
    passing = 0
    for tests in hacks.SHAPES.values():
        verdicts = judge.judge(codes, [tests] * len(codes), prompts)
        passing += sum(verdict.correct for verdict in verdicts)
    return {"hacks": len(codes), "shapes of tests": len(hacks.SHAPES), "judged right": passing}


def _escapes() -> dict[str, float]:
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "test_sandbox.py"), "-k", "attempt_is_contained"]
    ran = subprocess.run([*command, "-p", "no:cacheprovider"], capture_output=True, text=True, cwd=TESTS.parent)
    failed = max(len(re.findall(r"^FAILED", ran.stdout, re.MULTILINE)), int(ran.returncode != 0))
    attempts = import_module("escape_attempts").ATTEMPTS
    return {"attempts": len(attempts), "runs, also as an ordinary user, that were not contained": failed}
