"""The settings of every stage, one frozen dataclass each, and what they mean.

An empty string means "found by itself" wherever a setting is optional. This module reads no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from learnalign.config.checks import Section, bounded
from learnalign.config.values import (
    MOST_SEED,
    Allocation,
    Dtype,
    EngineName,
    NeighborSearch,
    Order,
    ResponsesUsed,
    Space,
    StoredDtype,
    StrategyName,
    Weighting,
)


@dataclass(frozen=True)
class PoolConfig(Section):
    """Where the prompts come from. Column names left empty are found by name (see `learnalign.pool`)."""

    path: str | tuple[str, ...] = ""
    """A file, a folder, a glob, or a data set of the hub that is in the local cache; in TOML also a list of these."""
    problem_column: str = ""
    answer_column: str = ""
    id_column: str = ""
    source_column: str = ""
    limit: int = bounded(0, at_least=0, why="0 takes all rows")
    """Use the first `limit` rows only; 0 uses all."""
    ignore_images: bool = False
    """Take the text alone of rows that have images, which are refused otherwise."""


@dataclass(frozen=True)
class PolicyConfig(Section):
    """The policy model whose success rates and gradients are measured."""

    model: str = ""
    dtype: Dtype = "auto"
    """`auto` (float32 on a CPU, bfloat16 on a GPU), `float32`, `bfloat16`, `float16` or `float64`."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:K`."""
    pad_token: str = ""
    """Token to pad with; empty takes the tokenizer's own and refuses a tokenizer that has none."""
    instruction: str = ""
    """Appended to every plain problem after a blank line; chat messages in the pool stay as they are."""
    plain_template: str = "Question: {problem}\nAnswer:"
    """Prompt for tokenizers without a chat template."""
    chat_template_kwargs: str = ""
    """JSON object of what the chat template is also told, such as `{"enable_thinking": false}`."""


@dataclass(frozen=True)
class WarmupConfig(Section):
    """GRPO on a random subset of the pool before anything is measured. The values are the paper's."""

    prompts: int = bounded(0, at_least=0)
    """How many prompts are trained on, once each; 0 trains nothing. `learnalign warmup` sets 300."""
    learning_rate: float = bounded(1e-6, above=0)
    beta: float = bounded(0.04, at_least=0)
    """Weight of the KL term against the policy that the warm-up began with."""
    clip: float = bounded(0.2, above=0)
    responses: int = bounded(8, at_least=2)
    prompts_per_step: int = bounded(12, above=0)
    """Groups of one optimizer step."""
    lora_rank: int = bounded(0, at_least=0)
    """0 trains all weights; r trains a LoRA adapter of that rank on all linear layers."""
    seed: int = bounded(0, at_least=0)


@dataclass(frozen=True)
class RolloutConfig(Section):
    """How responses are sampled: G = `responses` at `temperature` (the paper: 8 at 1.0)."""

    responses: int = bounded(8, at_least=2, why="a success rate needs a group")
    """G; the most that a prompt gets where `allocation` is not `fixed`."""
    temperature: float = bounded(1.0, above=0)
    max_new_tokens: int = bounded(512, above=0)
    max_prompt_tokens: int = bounded(0, at_least=0, why="0 sets no limit")
    """Skip longer prompts, as the training will (verl's `max_prompt_length`); 0 takes what fits the context."""
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    batch_sequences: int = bounded(0, at_least=0, why="0 goes by the engine")
    """Sequences sampled together, and the unit of resuming: one Parquet part a batch. 0 is 256 with the engine
    `transformers` and 4,096 with the others, which schedule sequences themselves."""
    allocation: Allocation = "fixed"
    """`fixed` (G for every prompt), `screen` (two, the rest of G only where they differ) or `halving` (rounds
    that keep the most promising prompts). See `learnalign.rollout.allocation`."""
    budget: float = bounded(8.0, above=0)
    """Of `halving`: responses a prompt on average over the pool."""
    keep: int = bounded(0, at_least=0, why="0 is twice select.n")
    """Of `halving`: prompts that are sampled to the end; 0 is twice select.n."""
    engine: EngineName = "transformers"
    """`transformers` (in this process), `vllm` (in this process, extra `vllm`) or `server` (OpenAI-compatible)."""
    tensor_parallel: int = bounded(1, above=0)
    """Of `vllm`: GPUs that share the policy."""
    base_urls: str = ""
    """Of `server`: one or several, separated by spaces, such as `http://host:8000/v1`."""
    served_model: str = ""
    """Of `server`: the name under which the policy is served; empty takes policy.model."""
    concurrency: int = bounded(256, above=0)
    """Of `server`: requests under way at a time, each for one response."""
    patience_seconds: float = bounded(600.0, above=0)
    """Of `server`: how long an outage may last, and a single answer take, before the run gives up."""
    max_logprob_gap: float = bounded(0.2, above=0)
    """Mean difference, in nats a token, between recorded log-probabilities and the policy's own, beyond which the
    responses are taken for another policy's and their sketches are refused."""


@dataclass(frozen=True)
class RewardConfig(Section):
    """How a response is judged (see `learnalign.rewards`)."""

    verifier: str = "math"
    """`math` (exact match, then math-verify), `exact`, `choice` (letters), `code`, `file.py:function`,
    or `imported` (the rewards that `learnalign import` read)."""
    by_source: dict[str, str] = field(default_factory=dict)
    """A verifier for every source of the pool, in place of `verifier`: `[reward.by_source]` with the sources as keys,
    or `--set reward.by_source.SOURCE=VERIFIER`."""
    threshold: float = bounded(1.0, above=-math.inf)
    """Where a function gives rewards: a response is correct (counts for p) from this reward on."""
    graded: bool = False
    """No reward means correct: learnability is the variance of a prompt's rewards in place of p (1 - p)."""
    sandbox_url: str = ""
    """Sandbox Fusion server that runs programs for `code`; empty runs them in a sandbox on this machine."""
    weak_sandbox: bool = False
    """Run programs here even where the system allows no namespaces: they can then read files and use the network."""
    workers: int = bounded(2, above=0)
    timeout_seconds: float = bounded(5.0, above=0)
    memory_mb: int = bounded(2048, above=0)

    @property
    def verifiers(self) -> tuple[str, ...]:
        """All that are in use."""
        return tuple(dict.fromkeys(self.by_source.values())) or (self.verifier,)

    def verifier_of(self, source: str) -> str:
        """The verifier of a source; "" where there is none."""
        return self.by_source.get(source, "") if self.by_source else self.verifier


@dataclass(frozen=True)
class SketchConfig(Section):
    """How a prompt's policy gradient is sketched: a signed fold to `dimension` numbers."""

    dimension: int = bounded(8192, at_least=128, at_most=1 << 20)
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    dtype: StoredDtype = "float16"
    """Storage of the unit rows: `float16`, `int8` (one scale a row) or `float32`."""
    batch_tokens: int = bounded(16384, above=0)
    """Padded tokens of one forward and backward; a larger single group is still taken whole."""
    rank: int = bounded(0, at_least=0, why="0 folds exact gradients")
    """0 folds exact gradients; k folds random projections of them to k x k a layer (cheaper, noisier)."""
    weighting: Weighting = "mean"
    """Of response tokens: `mean` (1/|y|: GRPO), `token` (all of the group alike: DAPO) or `constant` (Dr. GRPO)."""
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    responses_used: ResponsesUsed = "all"
    """`all`, or `one_correct`: one correct response stands for the group, which costs much fidelity."""
    kl_beta: float = bounded(0.0, at_least=0)
    """Strength of GRPO's KL term against `reference` (the paper: 0.04). 0 leaves it out, as it vanishes on the
    reference itself."""
    reference: str = ""
    """Reference policy of the KL term: a directory or hub name."""
    space: Space = "full"
    """`full` (the weights of the policy) or `lora` (the adapter matrices A and B of a LoRA policy)."""
    mask_truncated: bool = False
    """Leave responses that were cut at rollout.max_new_tokens out of the gradient, as DAPO and TRL's
    `mask_truncated_completions` do; their rewards still count for the others' advantages."""
    share_prompts: bool = True
    """Compute a prompt once for several responses where the policy honors it and it is cheaper."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class SelectConfig(Section):
    """How many prompts are taken, and by which strategy."""

    n: int = bounded(1000, above=0)
    strategy: StrategyName = "top"
    """A key of `learnalign.selection.STRATEGIES`."""
    seed: int = bounded(0, at_least=0, at_most=MOST_SEED)
    """Of the strategies that draw, of the neighbor search, and of the order `gaussian`."""
    order: Order = "rank"
    """In which the selected prompts are written, for trainers that do not shuffle: `rank` (as picked), `file` (as in
    the pool), `easy_to_hard` or `gaussian` (see `learnalign.selection.order`)."""
    target: str = ""
    """Pool file of a target set: prompts are aligned with its mean gradient instead of the pool's."""
    history: str = ""
    """JSON object of prompt ids and success rates over an earlier run, for the strategies `history` and `limr`."""
    quota_share: float = bounded(1.0, above=0, at_most=1)
    """At most this share of the selection from one value of `quota_column`; 1 sets no quota."""
    quota_column: str = ""
    """Column of the pool; empty takes its source."""
    duplicate_cosine: float = bounded(0.0, at_least=0, at_most=1)
    """No two selected prompts have gradients of this cosine or a larger one; 0 lets all pass."""
    candidates_per_pick: int = bounded(20, above=0)
    """Prompts of score > 0 that `greedy` chooses among, the best by score; up to 20,000 it takes all."""
    neighbors: NeighborSearch = "auto"
    """How `greedy` searches neighbors (see `learnalign.selection.neighbors.plan`); `auto` by time and memory."""
    neighbor_seconds: float = bounded(120.0, above=0)
    """About what the neighbor search of `greedy` may take on two cores: beyond it, it approximates."""


@dataclass(frozen=True)
class OnlineConfig(Section):
    """How often an online selection comes back to a prompt (see `learnalign.online`)."""

    floor: float = bounded(0.25, above=0, at_most=1)
    """Visits a pass of a prompt that seems to teach nothing: at 0.25 it comes back every fourth pass."""
    cap: float = bounded(1.0, at_least=1)
    """The most visits a pass."""
    decay: float = bounded(0.5, at_least=0, at_most=1)
    """What a verdict still counts once training has come back to its prompt."""
    memory: float = bounded(0.8, at_least=0, at_most=1)
    """What a gradient still counts a measurement later."""


@dataclass(frozen=True)
class ClusterConfig(Section):
    """Which workers compute (see `learnalign.cluster`). It changes nothing of what is computed."""

    address: str = ""
    """Of a Ray cluster: `auto` (that this machine is part of), HOST:PORT, or `local` (this machine alone, all its
    devices). Empty computes in this process."""
    workers: int = bounded(0, at_least=0, why="0 takes as many as there is room for")
