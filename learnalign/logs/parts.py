"""Logged responses as token ids with their ends, and as Parquet parts of a run's rollouts.

Both go by blocks of about `PART_ROWS` responses. This module does not put responses to prompts (see `matching`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from learnalign import files
from learnalign.errors import LogError
from learnalign.logs.matching import LoggedGroup
from learnalign.logs.record import Logged, Tokens
from learnalign.policy import Renderer
from learnalign.rollout.parts import part_name
from learnalign.schemas import LOGGED_ROLLOUTS

PART_ROWS = 4096


class EncodedGroup(NamedTuple):
    """A `LoggedGroup`, and the token ids of its responses."""

    prompt_id: str
    prompt: Tokens
    responses: list[Logged]
    tokens: list[Tokens]


def write_parts(folder: Path, groups: list[LoggedGroup], policy: Renderer) -> dict[str, str]:
    """Write the groups as parts; returns the ids of prompts that the policy cannot take, with the reason.

    Raises `LogError` where it can take none.
    """
    reasons: dict[str, str] = {}
    waiting: list[EncodedGroup] = []
    rows = parts = 0
    for some in _chunks(groups):
        for group, reason in _encoded(some, policy):
            if reason:
                reasons[group.prompt_id] = reason
                continue
            waiting.append(group)
            rows += len(group.tokens)
            if rows >= PART_ROWS:
                _write_part(folder / part_name(0, parts), waiting, policy)
                waiting, rows, parts = [], 0, parts + 1
    if waiting:
        _write_part(folder / part_name(0, parts), waiting, policy)
    elif parts == 0:
        raise LogError(f"no logged prompt fits the policy; the first: {next(iter(reasons.values()))}")
    return reasons


def _chunks(groups: list[LoggedGroup]) -> Iterator[list[LoggedGroup]]:
    """The groups, about `PART_ROWS` responses at once."""
    some: list[LoggedGroup] = []
    responses = 0
    for group in groups:
        some.append(group)
        responses += len(group.responses)
        if responses >= PART_ROWS:
            yield some
            some, responses = [], 0
    if some:
        yield some


def _encoded(groups: list[LoggedGroup], policy: Renderer) -> Iterator[tuple[EncodedGroup, str]]:
    """Every group with its responses' token ids, and why the policy cannot take it; "" where it can."""
    tokens = responses_tokens([one for group in groups for one in group.responses], policy)
    starts = np.cumsum([0, *(len(group.responses) for group in groups)])
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    longest = np.maximum.reduceat(lengths, starts[:-1]) + [len(group.prompt) for group in groups]
    ends = np.r_[0, np.cumsum(lengths)][starts[:-1]]
    largest = np.maximum.reduceat(np.concatenate(tokens), ends)
    for k, group in enumerate(groups):
        own = EncodedGroup(*group, tokens[starts[k] : starts[k + 1]])
        if longest[k] > policy.context:
            yield own, f"{longest[k]:,} tokens are more than the context of {policy.context:,}"
        else:
            yield own, foreign_token(max(int(largest[k]), int(group.prompt.max())), policy)


def response_tokens(logged: Logged, policy: Renderer) -> Tokens:
    """A response as token ids, with its end."""
    return responses_tokens([logged], policy)[0]


def responses_tokens(logged: Sequence[Logged], policy: Renderer) -> list[Tokens]:
    """Responses as token ids, each with its end; those that are text are encoded together."""
    texts = [one.response or "" for one in logged if one.tokens is None]
    if not texts:
        return [one.tokens for one in logged if one.tokens is not None]
    own_end = policy.tokenizer.eos_token_id
    end, ends = own_end if own_end in policy.eos_ids else policy.eos_ids[0], frozenset(policy.eos_ids)
    encoded = policy.ids(texts)
    for ids in encoded:
        if not ids or ids[-1] not in ends:
            ids.append(end)
    text_tokens = (np.array(ids, np.int32) for ids in encoded)
    return [next(text_tokens) if one.tokens is None else one.tokens for one in logged]


def out_of_range(texts: Iterable[Tokens], policy: Renderer) -> str:
    """What is wrong with the token ids of a prompt and its responses; empty where the policy's model knows all."""
    return foreign_token(max(int(tokens.max()) for tokens in texts), policy)


def foreign_token(largest: int, policy: Renderer) -> str:
    """What is wrong with the largest token id of a prompt; empty where the policy's model knows it.

    The model's vocabulary counts, not the tokenizer's: embeddings padded to a round number can be sampled too.
    """
    if largest < policy.vocabulary:
        return ""
    return (
        f"token id {largest} is beyond the {policy.vocabulary:,} tokens that {policy.name!r} knows: "
        "is it the policy that the rollouts were logged with?"
    )


def _write_part(path: Path, groups: list[EncodedGroup], policy: Renderer) -> None:
    """One part, with the columns `schemas.LOGGED_ROLLOUTS`."""
    logged = [one for group in groups for one in group.responses]
    tokens = [ids for group in groups for ids in group.tokens]
    sizes = np.array([len(group.tokens) for group in groups])
    of = pa.array(np.repeat(np.arange(len(groups)), sizes))
    texts = [one.response for one in logged]
    ended = np.isin([ids[-1] for ids in tokens], policy.eos_ids)
    columns = {
        "prompt_id": pa.array([group.prompt_id for group in groups]).take(of),
        "response": np.arange(len(tokens)) - np.repeat(np.cumsum(sizes) - sizes, sizes),
        "prompt_tokens": pa.array([group.prompt for group in groups]).take(of),
        "tokens": tokens,
        "logprobs": [None] * len(tokens),
        "length": [len(ids) for ids in tokens],
        "text": [policy.decode(ids.tolist()) if t is None else t for t, ids in zip(texts, tokens, strict=True)],
        "finish": np.where(ended, "stop", "length"),
        "reward": [one.reward for one in logged],
        "correct": [one.correct for one in logged],
    }
    files.write_parquet(path, pa.table(columns, schema=LOGGED_ROLLOUTS))
