"""GRPO on a tiny policy, fast on a CPU: batched sampling with a cache, one on-policy step, exact evaluation.

The loss of a step over B groups of G responses (DeepSeekMath, arXiv 2402.03300, at ratio 1, without a KL term) is

    - (1 / (B G)) sum_bg A_bg (1 / |y_bg|) sum_t log pi(y_bgt | ...),   A = (r - mean r) / (std r + 1e-4),

std with G - 1, as in TRL (a test compares weights after steps of both). Groups without an advantage run neither forward
nor backward, and what the responses of a group share runs once (see `trees`): the gradient is the same.
Tokens are characters; a reward is 1 where a response is exactly the answer and the end. This module chooses no prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache

from bench.outcome.pools import Prompt
from bench.outcome.trees import Tree, hidden, tree
from learnalign.demo.run import POLICY

Tokens = tuple[int, ...]
LEARNING_RATE, CLIP_NORM = 1e-4, 1.0
RESPONSES = 8
MAX_NEW_TOKENS = 12
SAMPLED_TOGETHER = 1024
"""Most sequences of a batch."""
_VOCABULARY: dict[str, int] = AutoTokenizer.from_pretrained(POLICY).get_vocab()
END, PAD = _VOCABULARY["</s>"], _VOCABULARY["<pad>"]


class Encoded(NamedTuple):
    """A prompt as token ids."""

    prompt: Tokens
    answer: Tokens
    """The only response of reward 1, its end included."""


class Group(NamedTuple):
    """A prompt's responses and which of them are right."""

    prompt: Tokens
    responses: list[Tokens]
    rewards: list[float]

    @property
    def mixed(self) -> bool:
        """Whether rewards differ, so that there is a gradient."""
        return min(self.rewards) < max(self.rewards)


class Scored(NamedTuple):
    """How good a policy is on held-out problems."""

    passed: float
    """Mean probability that a response at temperature 1 is right, exactly."""
    greedy: float
    """Share of problems that greedy decoding solves."""


def encode(prompt: Prompt) -> Encoded:
    """One token a character; "=" ends the prompt."""
    return Encoded(
        tuple(_VOCABULARY[character] for character in prompt.text + "="),
        (*(_VOCABULARY[character] for character in prompt.answer), END),
    )


def rollout(model: Any, prompts: Sequence[Encoded], responses: int, generator: torch.Generator) -> list[Group]:
    """`responses` at temperature 1 of every prompt, judged."""
    groups: list[Group | None] = [None] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda k: len(prompts[k].prompt))
    together = SAMPLED_TOGETHER // responses
    for first in range(0, len(prompts), together):
        part = by_length[first : first + together]
        sampled = _sample(model, [prompts[k].prompt for k in part], responses, generator)
        for k, texts in zip(part, sampled, strict=True):
            rewards = [float(text == prompts[k].answer) for text in texts]
            groups[k] = Group(prompts[k].prompt, texts, rewards)
    return [group for group in groups if group is not None]


@torch.inference_mode()
def _sample(model: Any, prompts: Sequence[Tokens], copies: int, generator: torch.Generator) -> list[list[Tokens]]:
    """Prompts run once, left-padded; then all responses advance a token at a time, equal prefixes as one."""
    width = max(map(len, prompts))
    ids = torch.tensor([(PAD,) * (width - len(prompt)) + prompt for prompt in prompts])
    mask = (ids != PAD).long()
    cache = DynamicCache()
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        logits_to_keep=1,
    ).logits[:, -1]
    texts: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    going = torch.arange(len(texts))  # responses that have not ended
    row = going // copies  # which row of the cache their prefix is
    for step in range(MAX_NEW_TOKENS):
        token = torch.multinomial(logits.softmax(-1)[row], 1, generator=generator)[:, 0]
        for k, value in zip(going.tolist(), token.tolist(), strict=True):
            texts[k].append(value)
        more = token != END
        going, row, token = going[more], row[more], token[more]
        if not len(going) or step == MAX_NEW_TOKENS - 1:
            break
        prefix, row = torch.unique(row * len(_VOCABULARY) + token, return_inverse=True)
        before, token = prefix // len(_VOCABULARY), prefix % len(_VOCABULARY)
        if len(before) != len(mask) or bool((before != torch.arange(len(mask))).any()):
            cache.batch_select_indices(before)
        mask = torch.cat([mask[before], torch.ones_like(token)[:, None]], 1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
        ).logits[:, -1]
    return [[tuple(text) for text in texts[first : first + copies]] for first in range(0, len(texts), copies)]


def make_optimizer(model: Any) -> torch.optim.Optimizer:
    """AdamW at a constant rate."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)


def train_step(model: Any, optimizer: torch.optim.Optimizer, groups: Sequence[Group]) -> None:
    """One step on the groups of a batch; nothing happens where no group has an advantage."""
    responses = sum(len(group.responses) for group in groups)
    trees: list[Tree] = []
    at: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    first = 0
    for group in groups:
        if group.mixed:
            texts = _distinct(group)
            trees.append(tree(group.prompt, list(texts)))
            for (text, advantage), ends in zip(texts.items(), trees[-1].ends, strict=True):
                at += [first + k for k in ends]
                targets += text
                weights += [advantage / (len(text) * responses)] * len(text)
            first += len(trees[-1].ids)
    if not trees:
        return
    optimizer.zero_grad()
    logits = model.lm_head(hidden(model, trees))
    found = logits.log_softmax(-1)[torch.tensor(at), torch.tensor(targets)]
    (-(found * torch.tensor(weights)).sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()


def _distinct(group: Group) -> dict[Tokens, float]:
    """The different responses of a group, each with the sum of its copies' advantages."""
    rewards = np.array(group.rewards)
    sums: dict[Tokens, float] = defaultdict(float)
    for text, advantage in zip(group.responses, (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4), strict=True):
        sums[text] += float(advantage)
    return sums


def response_log_probabilities(
    model: Any, prompts: Sequence[Tokens], texts: Sequence[Tokens]
) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher-forced: log pi [T] of all responses' tokens, whether each is the likeliest [T], whose it is [T]."""
    width = max(len(p) + len(t) for p, t in zip(prompts, texts, strict=True)) - 1
    ids = torch.tensor([((*p, *t, *(PAD,) * width)[:width]) for p, t in zip(prompts, texts, strict=True)])
    of = torch.repeat_interleave(torch.tensor([len(t) for t in texts]))
    at = torch.cat([torch.arange(len(p) - 1, len(p) + len(t) - 1) for p, t in zip(prompts, texts, strict=True)])
    targets = torch.tensor([token for text in texts for token in text])
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[of, at]
    logits = model.lm_head(hidden)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets], logits.argmax(-1) == targets, of


@torch.inference_mode()
def success(model: Any, prompts: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """[N] exact probability of the answer and its end at temperature 1; [N] whether greedy decoding gives it."""
    passed, greedy = torch.zeros(len(prompts)), torch.zeros(len(prompts), dtype=torch.bool)
    by_length = sorted(range(len(prompts)), key=lambda k: len(prompts[k].prompt) + len(prompts[k].answer))
    for first in range(0, len(prompts), 128):
        part = by_length[first : first + 128]
        found, likeliest, of = response_log_probabilities(
            model, [prompts[k].prompt for k in part], [prompts[k].answer for k in part]
        )
        passed[part] = torch.zeros(len(part)).index_add_(0, of, found).exp()
        greedy[part] = torch.zeros(len(part)).index_add_(0, of, (~likeliest).float()) == 0
    return passed, greedy


def evaluate(model: Any, prompts: Sequence[Encoded]) -> Scored:
    """Means of `success`."""
    passed, greedy = success(model, prompts)
    return Scored(float(passed.mean()), float(greedy.float().mean()))
