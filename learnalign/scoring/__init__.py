"""The LearnAlign score of every prompt: its learnability, times how much its gradient agrees with the pool's.

    arrays         what arrays are accepted
    cpu            arrays and mapped shards, in C++; also against the mean direction of a target set
    gpu            tensors that lie on a GPU, in torch and Triton
    learnability   p (1 - p) from success rates and from counts
    floats         arithmetic that flushes nothing to zero
    rows           sketches as float32 rows, some at a time

This package does not choose prompts (see `selection`) and does not read files (see `store`).
"""

from __future__ import annotations

from learnalign.scoring.arrays import sketch_array
from learnalign.scoring.cpu import Scores, mean_direction, score, score_against, score_shards, sum_unit_rows
from learnalign.scoring.learnability import learnability_of

__all__ = [
    "Scores",
    "learnability_of",
    "mean_direction",
    "score",
    "score_against",
    "score_shards",
    "sketch_array",
    "sum_unit_rows",
]
