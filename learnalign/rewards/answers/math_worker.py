"""The worker process of `math`: compares two answers with math-verify (`worker` says how it is spoken to).

A message is `[gold, candidate]`, the reply `true` or `false`. This module does not read responses: see `extract`.
"""

from __future__ import annotations

from learnalign.rewards.answers.algebra import Compare, comparison
from learnalign.rewards.answers.structure import equal
from learnalign.rewards.worker import Answer, CannotServe, serve

CLEAR_CACHE_EVERY = 200
"""Judgments after which SymPy's cache is dropped, lest a long life fill the memory limit."""
WARM_UP = (
    (r"\sqrt{4}", "2"),
    ("(1,2]", r"x\in(1,2]"),
    (r"(1,2]\cup\{4\}", "(1,2]"),
    ("x+y=1", "2x+2y=2"),
    ("2x", "3x"),
    ("1<x<2", "x<3"),
    (r"\pi", "3.141593"),
)
"""Compared before the first question, whose time is not for imports and for the tables of the parser."""


def prepare(arguments: list[str], memory_mb: int) -> Answer:
    """The comparison. Raises `CannotServe` if math-verify cannot be loaded."""
    try:
        same = comparison()
        for pair in WARM_UP:
            equal(*pair, same)
    except (ImportError, MemoryError) as error:
        raise CannotServe(
            f"a worker cannot load math-verify within {memory_mb} MiB ({type(error).__name__}: {error}); install it, "
            "raise reward.memory_mb, or use the verifier exact"
        ) from error
    return _answers(same)


def _answers(same: Compare) -> Answer:
    from sympy.core.cache import clear_cache

    asked = 0

    def answer(pair: tuple[str, str]) -> bool:
        nonlocal asked
        asked += 1
        if asked % CLEAR_CACHE_EVERY == 0:
            clear_cache()
        gold, candidate = pair
        return equal(gold, candidate, same) is True

    return answer


if __name__ == "__main__":
    serve(prepare)
