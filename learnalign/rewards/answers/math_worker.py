"""The worker process of `math`: compares two answers with math-verify (`worker` says how it is spoken to).

A message is `[gold, candidate]`, the reply `true` or `false`. This module does not read responses: see `extract`.
"""

from __future__ import annotations

from typing import Any

from learnalign.rewards.worker import Answer, CannotServe, serve

CLEAR_CACHE_EVERY = 200
"""Judgments after which SymPy's cache is dropped, lest a long life fill the memory limit."""


def prepare(arguments: list[str], memory_mb: int) -> Answer:
    """The comparison. Raises `CannotServe` if math-verify cannot be loaded."""
    try:
        return _comparison()
    except (ImportError, MemoryError) as error:
        raise CannotServe(
            f"a worker cannot load math-verify within {memory_mb} MiB ({type(error).__name__}: {error}); install it, "
            "raise reward.memory_mb, or use the verifier exact"
        ) from error


def _comparison() -> Answer:
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

    asked = 0

    def equal(pair: tuple[str, str]) -> bool:
        nonlocal asked
        asked += 1
        if asked % CLEAR_CACHE_EVERY == 0:
            clear_cache()
        expected, found = map(read, pair)
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

    return equal


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
    serve(prepare)
