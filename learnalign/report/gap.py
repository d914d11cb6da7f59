"""What the report says of the check of recorded log-probabilities (see `learnalign.runs.gaps`).

This module draws nothing and knows no markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from learnalign.report.wording import number, plural

if TYPE_CHECKING:
    from learnalign.report.facts import ReportFacts


def checked(facts: ReportFacts) -> list[str]:
    """A sentence about how far the responses are the policy's own; none for runs before there was a check."""
    prompts, tokens, mean, largest, worst = (
        facts.measured("stages", "sketch", "logprob_gap", name)
        for name in ("prompts", "tokens", "mean", "largest", "worst_mean")
    )
    if prompts == 0:
        return ["The responses were not checked against the policy: they came without log-probabilities."]
    if prompts is None or tokens is None or mean is None or largest is None or worst is None:
        return []
    return [
        "The policy's own log-probabilities of the sampled tokens differ from those recorded with them by "
        f"{number(mean, 4)} on average over {plural(int(tokens), 'token')} of {plural(int(prompts), 'prompt')} "
        f"(a prompt's mean: at most {number(worst, 4)}; a token: at most {number(largest, 4)})."
    ]
