"""Prompts whose reference answer is probably wrong, and copies of a test set, each with its evidence.

    agreement    nearly all responses agree on another answer, where they are right as a rule
    copies       the same problem twice with different answers; a problem of a test set
    unreadable   answers that a verifier cannot find in any response, and verdicts that it gave up on

How far a signal can be trusted is measured on pools with known wrong answers by `bench.suspects`; the guide `suspects`
has the figures. A gradient that points away from the mean of its source is not among the signals: it finds wrong
answers better than chance, but most of what it lists is right.

This package reads no files and changes nothing.
"""

from typing import NamedTuple

SIGNALS = {
    "agreement": "nearly all responses agree on another answer",
    "contradiction": "the same problem stands in the pool with another answer",
    "unreadable": "the verifier cannot read the reference answer",
    "undecided": "the verifier gave up on most responses",
    "test set": "a copy of a problem of the test set",
}
"""Every signal and what it says, in the order of the lists."""


class Suspect(NamedTuple):
    """A prompt, which signal it gave, and why, in words for a person."""

    prompt_id: str
    signal: str
    """A key of `SIGNALS`."""
    evidence: str
