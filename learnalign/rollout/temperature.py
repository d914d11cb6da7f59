"""At which temperature a server tells log-probabilities: that of the sampling, or 1.

vLLM tells those of the model, at temperature 1, unless it runs with `--logprobs-mode processed_logprobs`; SGLang those
of the sampling, unless SGLANG_RETURN_ORIGINAL_LOGPROB is set. No answer says which. So one prompt is asked twice, at
two temperatures: differences between tokens' log-probabilities go with 1 / temperature, or do not change. This module
sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

TOP = 5
"""Tokens that are compared."""
CLEAR = 0.1
"""Nats by which the two cases must differ to be told apart: more than rounding moves."""


def of_the_sampling(top: Mapping[str, float], plain: Mapping[str, float], temperature: float) -> bool | None:
    """Whether `top`, log-probabilities of some next tokens asked for at `temperature`, are at that temperature.

    plain: the same asked for at temperature 1. None where it cannot be told.
    """
    common = [token for token in top if token in plain]
    if not common:
        return None
    first = common[0]
    pairs = [(top[token] - top[first], plain[token] - plain[first]) for token in common]
    if max(abs(b) for _, b in pairs) * abs(1 / temperature - 1) < CLEAR:
        return None
    return max(abs(a - b / temperature) for a, b in pairs) < max(abs(a - b) for a, b in pairs)
