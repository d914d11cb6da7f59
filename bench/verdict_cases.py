"""Part of `bench.verdicts`: labelled pairs of answer and response, judged by us and, for math, by two peers.

The peers are math-verify as its README says (`verify(parse(gold), parse(response))`) and TRL's `accuracy_reward`. A
label may be `either` (supported or refused) or `refuse`. Cases on which reasonable people differ are counted apart.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learnalign.errors import RewardError
from learnalign.rewards import Prompt, Verifier, make_verifier

Judge = Callable[[dict[str, Any]], bool | str]


def compare(path: Path) -> dict[str, dict[str, int]]:
    """Agreement, false right and false wrong by verifier; prints the cases of ours that are not as labelled."""
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, dict[str, int]] = {}
    for verifier in ("math", "choice", "code"):
        own = [case for case in cases if case["verifier"] == verifier]
        with make_verifier(verifier, workers=2, timeout_seconds=10, memory_mb=2048) as judge:
            found[verifier] = _count(own, _ours(judge), shown=verifier)
    math = [case for case in cases if case["verifier"] == "math"]
    for name, judged in (("math-verify", math_verify), ("TRL accuracy_reward", trl_reward)):
        found[name] = _count(math, judged)
    for name, counts in found.items():
        print(f"{name:<20} " + ", ".join(f"{value} {what}" for what, value in counts.items()))
    return found


def _count(cases: list[dict[str, Any]], judge: Judge, shown: str = "") -> dict[str, int]:
    counts: Counter[str] = Counter({"cases": len(cases), "agree": 0, "false right": 0, "false wrong": 0, "refused": 0})
    for case in cases:
        said = judge(case)
        expected = (True, "refused") if case["right"] == "either" else (case["right"],)
        if said in expected or (said == "refused" and case["right"] == "refuse"):
            counts["agree"] += 1
            continue
        how = "refused" if said == "refused" else "false right" if said else "false wrong"
        counts[how] += 1
        counts["of these debatable"] += case["debatable"]
        if shown:
            print(f"  {shown}: {how}, {case['answer']!r:.60} {case['response']!r:.80}")
    return dict(counts)


def _ours(judge: Verifier) -> Judge:
    def judged(case: dict[str, Any]) -> bool | str:
        prompt = Prompt("case", case.get("problem") or "", row=case.get("row") or {})
        try:
            return judge.judge([case["response"]], [case["answer"]], [prompt])[0].correct
        except RewardError:
            return "refused"

    return judged


def math_verify(case: dict[str, Any]) -> bool:
    """math-verify; what it raises is wrong."""
    import math_verify as peer

    logging.disable(logging.ERROR)
    try:
        return bool(peer.verify(peer.parse(case["answer"]), peer.parse(case["response"])))
    except Exception:
        return False


def trl_reward(case: dict[str, Any]) -> bool:
    """TRL's reward; None (a gold answer that it cannot read) is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": case["response"]}]]
    try:
        return bool(accuracy_reward(completions, [case["answer"]])[0] == 1.0)
    except Exception:
        return False
