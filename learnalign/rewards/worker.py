"""A worker process: reads questions on stdin, compares answers with math-verify, writes outcomes on stdout.

`python -P -m learnalign.rewards.worker PARENT_PID TIMEOUT_SECONDS MEMORY_MB`. First of all it writes the
JSON line `"ready"`, or `{"error": ...}` if math-verify cannot be imported; then for each line
`[gold, candidate]` one line `true` or `false`. It ends with its parent: at the end of its stdin, on Linux by
the parent-death signal (which also comes when the thread that started it ends; `workers` then starts
another), and everywhere by an alarm that the kernel delivers even while a computation in C holds the
interpreter.

It does not judge in time: the parent watches the clock and kills it (`workers`).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
CLEAR_CACHE_EVERY = 200
"""Judgments after which SymPy's cache is dropped, lest a long life fill the memory limit."""


def main() -> None:
    """Serve questions until stdin ends."""
    parent, timeout_seconds, memory_mb = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    # Keep the pipe to ourselves: whatever a library prints goes nowhere.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        equal, clear_cache = _math_verify()
    except (ImportError, MemoryError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=replies)
        return
    print(json.dumps("ready"), file=replies)
    for count, line in enumerate(sys.stdin, start=1):
        gold, candidate = json.loads(line)
        # The default action of SIGALRM ends the process without Python; the parent kills it long before.
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_seconds + 1)
        outcome = equal(gold, candidate)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(outcome), file=replies)
        if count % CLEAR_CACHE_EVERY == 0:
            clear_cache()


def _die_with(parent: int) -> None:
    """Ask Linux for SIGKILL at the parent's death, and leave if it died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _math_verify() -> tuple[Callable[[str, str], bool], Callable[[], None]]:
    """The comparison, and the function that drops SymPy's cache. Raises `ImportError`."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy.core.cache import clear_cache

    # Units and boxes are gone by now; math-verify's own unit list would turn the product 5t into 5.
    target = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        )
    )

    def read(text: str) -> list[Any]:
        text = text.replace(r"\$", "").replace("$", "")
        found: list[Any] = parse(f"${text}$", [target], fallback_mode="no_fallback", parsing_timeout=None)
        return found

    def equal(gold: str, candidate: str) -> bool:
        expected, found = read(gold), read(candidate)
        if not expected or not found:
            return False
        return bool(
            verify(
                expected,
                found,
                float_rounding=_places(expected[0]),
                allow_set_relation_comp=True,
                timeout_seconds=None,
            )
        )

    return equal, clear_cache


def _places(expected: Any) -> int:
    """Decimals to which floats are compared: six significant ones, where math-verify takes six places."""
    if not getattr(expected, "is_number", False):
        return 6
    size = abs(complex(expected.evalf(15)))
    places = 6
    while 0 < size < 0.1 and places < 40:
        size, places = size * 10, places + 1
    return places


if __name__ == "__main__":
    main()
