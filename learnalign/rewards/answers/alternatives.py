"""Several accepted answers: a response that agrees with any of them is correct.

A gold answer that is a JSON list of texts, such as `["14", "14.0"]`, lists the accepted ones; any other text is one
answer (a list of numbers may be an interval or a point). This module does not judge: the verifier inside does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths


def alternatives(answer: str) -> list[str]:
    """The accepted answers, at least one."""
    if not answer.lstrip().startswith("["):
        return [answer]
    try:
        listed = json.loads(answer)
    except (ValueError, RecursionError):
        return [answer]
    return listed if listed and all(isinstance(one, str) for one in listed) else [answer]


class AnyOfVerifier(Verifier):
    """Judges with `verifier` against every accepted answer, and takes the best verdict."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`."""
        check_lengths(responses, answers)
        accepted = [alternatives(answer) for answer in answers]
        repeated = [response for response, own in zip(responses, accepted, strict=True) for _ in own]
        verdicts = iter(self.verifier.judge(repeated, [one for own in accepted for one in own]))
        return [max([next(verdicts) for _ in own], key=lambda verdict: verdict.correct) for own in accepted]

    def notes(self) -> list[str]:
        """Those of the verifier inside."""
        return self.verifier.notes()

    def close(self) -> None:
        """Close the verifier inside."""
        self.verifier.close()
