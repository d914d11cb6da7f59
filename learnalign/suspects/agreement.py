"""Nearly all responses agree on an answer that is not the reference's, where such agreement is right as a rule.

A policy makes the same mistake again and again, too. What tells the two apart is how often agreement as strong is
right on other prompts of the source: where it is right on at least `TRUSTED` of them, a reference answer against it
is suspect. This module judges nothing: verdicts are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from learnalign.rewards.answers.alternatives import alternatives
from learnalign.suspects import Suspect
from learnalign.suspects.answers import same_answer, stated_answer

FEWEST = 7
"""Responses that have to agree."""
SHARE = 0.85
"""Of a prompt's responses that have to agree."""
TRUSTED = 0.8
"""Share of the prompts of a source on which such an agreement has to be with the reference answer."""


class Agreement(NamedTuple):
    """What nearly all responses to a prompt say."""

    prompt_id: str
    source: str
    responses: int
    agreeing: int
    answer: str
    """What they agree on; "" where it is the reference answer."""


def agree(count: Any, of: Any) -> Any:
    """Whether so many of a prompt's responses are nearly all; numbers or arrays of them."""
    return (count >= FEWEST) & (count >= SHARE * of)


def agreement(
    prompt_id: str, source: str, reference: str, texts: Sequence[str], correct: Sequence[bool], verifier: str
) -> Agreement | None:
    """The answer that nearly all responses give; None where they do not agree, or cannot be compared."""
    most = sum(correct)
    if agree(most, len(texts)):
        return Agreement(prompt_id, source, len(texts), most, "")
    if not agree(len(texts) - most, len(texts)):
        return None
    wrong = [text for text, right in zip(texts, correct, strict=True) if not right]
    answers = Counter(answer for text in wrong if (answer := stated_answer(text, verifier)))
    answer, most = answers.most_common(1)[0] if answers else ("", 0)
    if not agree(most, len(texts)):
        return None
    if any(same_answer(one, answer) is not False for one in alternatives(reference)):
        return None  # judged wrong for another reason, or equal for all that is known here
    return Agreement(prompt_id, source, len(texts), most, answer)


def disputed(found: Iterable[Agreement]) -> list[Suspect]:
    """Prompts whose reference answer stands against an agreement that is right as a rule."""
    all_found = list(found)
    total = Counter(one.source for one in all_found)
    right = Counter(one.source for one in all_found if not one.answer)
    where = "of this source " if len(total) > 1 else ""
    return [
        Suspect(
            one.prompt_id,
            "agreement",
            f"{one.agreeing} of {one.responses} responses agree on {one.answer!r:.60}; of {total[one.source]:,} "
            f"prompts {where}with such agreement, {right[one.source]:,} agree with the reference answer",
        )
        for one in all_found
        if one.answer and right[one.source] >= TRUSTED * total[one.source]
    ]
