"""Which logged responses count as correct: the log's own verdict, else a reward from the threshold on.

What cannot be meant is refused with an example: rewards that differ within a prompt while all or none are correct, and
verdicts that go against the rewards. This module reads no files and matches no prompts.
"""

from __future__ import annotations

import numpy as np

from learnalign.errors import LogError
from learnalign.logs.matching import prompt_key
from learnalign.logs.record import Logged
from learnalign.rewards.correctness import all_or_nothing, contradiction, distinct_rewards
from learnalign.rewards.verdict import is_correct


def counts_as_correct(logged: Logged, threshold: float) -> bool:
    """The logged verdict, or whether the reward is at least `threshold`."""
    return logged.correct if logged.correct is not None else is_correct(logged.reward or 0.0, threshold)


def checked(logged: list[Logged], threshold: float, named: bool, graded: bool = False) -> str:
    """The distinct rewards with how many count as correct, as a note.

    named: a person named the column of verdicts, so that it may go against the rewards. graded: no reward means
    correct. Raises `LogError`.
    """
    numbers: dict[object, int] = {}
    prompts = [numbers.setdefault(prompt_key(one), len(numbers)) for one in logged]
    rewards = np.array([one.reward or 0.0 for one in logged], np.float64)
    correct = np.array([counts_as_correct(one, threshold) for one in logged], np.bool_)
    listed = distinct_rewards(rewards, correct)
    problem = "" if graded else all_or_nothing(prompts, rewards, correct)
    if problem:
        raise LogError(
            f"{problem} ({listed}): say from which reward on a response is correct with --set reward.threshold=X "
            f"(now {threshold:g}), name the column that decides with --correct-column, or say that no reward means "
            "correct with --set reward.graded=true"
        )
    inverted = None if named else contradiction(prompts, rewards, correct)
    if inverted is not None:
        right, wrong = inverted
        raise LogError(
            f"verdicts and rewards of the log contradict each other: of one prompt, a response that is correct has the "
            f"reward {rewards[right]:g}, and one that is not has {rewards[wrong]:g} ({listed}); name the column that "
            "decides with --correct-column"
        )
    return listed
