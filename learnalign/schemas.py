"""The columns of every Parquet file of a run directory, in one place.

    pool.parquet              POOL
    rollouts/part-*.parquet   ROLLOUTS; `skipped.parquet` SKIPPED, `dropped.parquet` DROPPED
    rewards/part-*.parquet    VERDICTS, a row a row of the part of rollouts of the same name
    scores.parquet            SCORES, a row a prompt of the pool, in the pool's order
    picks.parquet             PICKS, in the order of rank

`selection.parquet` holds the pool file's own columns and is not described here. This module reads and writes nothing.
"""

from __future__ import annotations

import pyarrow as pa

POOL = pa.schema(
    {
        "row": pa.int64(),  # of the pool file, 0 for the first
        "prompt_id": pa.string(),  # unique
        "problem": pa.string(),  # what a person would read
        "messages": pa.string(),  # chat messages as JSON; null for a plain problem
        "answer": pa.string(),  # never empty
        "source": pa.string(),  # "" if there is none
        "tools": pa.string(),  # JSON list of what the chat template is told of; null without; left out if all are null
    }
)
ROLLOUTS = pa.schema(
    {
        "prompt_id": pa.string(),
        "response": pa.int32(),  # its number among the prompt's responses
        "prompt_tokens": pa.list_(pa.int32()),
        "tokens": pa.list_(pa.int32()),  # with the end token, where the policy gave one
        "logprobs": pa.list_(pa.float32()),  # natural logarithms, at the sampling temperature; null where not known
        "length": pa.int32(),  # of `tokens`
        "text": pa.string(),
        "finish": pa.string(),  # "stop" or "length"
    }
)
LOGGED_ROLLOUTS = ROLLOUTS.append(pa.field("reward", pa.float64())).append(pa.field("correct", pa.bool_()))
"""Of rollouts that were logged elsewhere: with their rewards."""
SKIPPED = pa.schema({"prompt_id": pa.string(), "reason": pa.string()})
DROPPED = pa.schema({"prompt_id": pa.string(), "responses": pa.int32()})
VERDICTS = pa.schema(
    {
        "prompt_id": pa.string(),
        "response": pa.int32(),
        "correct": pa.bool_(),  # decides the success rate p
        "reward": pa.float64(),  # enters the advantages
        "how": pa.string(),  # what decided: see `learnalign.rewards.verdict.Verdict`
    }
)
SCORES = pa.schema(
    {
        "row": pa.int64(),
        "prompt_id": pa.string(),
        "problem": pa.string(),
        "source": pa.string(),
        "responses": pa.int64(),
        "success_rate": pa.float64(),  # p; NaN without responses
        "learnability": pa.float64(),  # p (1 - p), without bias where numbers of responses differ
        "score": pa.float64(),
        "alignment": pa.float64(),  # cosine with the pool's or the target's mean direction
        "gradient_norm": pa.float64(),  # NaN without a gradient
        "response_tokens": pa.float64(),  # mean; NaN without responses
        "state": pa.string(),  # learnable, mastered, unsolved, dropped, skipped or excluded
        "reason": pa.string(),  # of the last three
    }
)
PICKS = pa.schema({"position": pa.int64(), "prompt_id": pa.string(), "gain": pa.float64()})
