"""Every setting of a run, as frozen dataclasses, with TOML in and out.

One dataclass per stage. An unknown key, a wrong type or a value out of range is a `ConfigError` that names the
key and where it was read. An empty string means "found by itself" wherever a setting is optional, so that the
file written into a run directory spells out every default. This module does not read pools or models.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import tomli_w

from learnalign.errors import ConfigError


@dataclass(frozen=True)
class PoolConfig:
    """Where the prompts come from. Column names left empty are found by name (see `learnalign.pool`)."""

    path: str = ""
    problem_column: str = ""
    answer_column: str = ""
    id_column: str = ""
    source_column: str = ""
    limit: int = 0
    """Use the first `limit` rows only; 0 uses all."""


@dataclass(frozen=True)
class PolicyConfig:
    """The policy model whose success rates and gradients are measured."""

    model: str = ""
    dtype: str = "auto"
    """`auto` (float32 on a CPU, bfloat16 on a GPU), `float32`, `bfloat16`, `float16` or `float64`."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:K`."""
    pad_token: str = ""
    """Token to pad with; empty takes the tokenizer's own and refuses a tokenizer that has none."""
    instruction: str = ""
    """Appended to every plain problem after a blank line; chat messages in the pool stay as they are."""
    plain_template: str = "Question: {problem}\nAnswer:"
    """Prompt for tokenizers without a chat template."""


@dataclass(frozen=True)
class WarmupConfig:
    """GRPO on a random subset of the pool before anything is measured. The values are the paper's."""

    prompts: int = 0
    """How many prompts are trained on, once each; 0 trains nothing. `learnalign warmup` sets 300."""
    learning_rate: float = 1e-6
    beta: float = 0.04
    """Weight of the KL term against the policy that the warm-up began with."""
    clip: float = 0.2
    responses: int = 8
    prompts_per_step: int = 12
    """Groups of one optimizer step."""
    lora_rank: int = 0
    """0 trains all weights; r trains a LoRA adapter of that rank on all linear layers."""
    seed: int = 0


@dataclass(frozen=True)
class RolloutConfig:
    """How responses are sampled: G = `responses` at `temperature` (the paper: 8 at 1.0)."""

    responses: int = 8
    """G; the most that a prompt gets where `allocation` is not `fixed`."""
    temperature: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    batch_sequences: int = 0
    """Sequences sampled together, and the unit of resuming: one Parquet part a batch. 0 is 256 with the engine
    `transformers` and 4,096 with the others, which schedule sequences themselves."""
    allocation: str = "fixed"
    """`fixed` (G for every prompt), `screen` (two, the rest of G only where they differ) or `halving` (rounds
    that keep the most promising prompts). See `learnalign.rollout.allocation`."""
    budget: float = 8.0
    """Of `halving`: responses a prompt on average over the pool."""
    keep: int = 0
    """Of `halving`: prompts that are sampled to the end; 0 is twice select.n."""
    engine: str = "transformers"
    """`transformers` (in this process), `vllm` (in this process, extra `vllm`) or `server` (OpenAI-compatible)."""
    tensor_parallel: int = 1
    """Of `vllm`: GPUs that share the policy."""
    base_urls: str = ""
    """Of `server`: one or several, separated by spaces, such as `http://host:8000/v1`."""
    served_model: str = ""
    """Of `server`: the name under which the policy is served; empty takes policy.model."""
    concurrency: int = 64
    """Of `server`: prompts under way at a time."""
    patience_seconds: float = 600.0
    """Of `server`: how long an outage may last, and a single answer take, before the run gives up."""


@dataclass(frozen=True)
class RewardConfig:
    """How a response is judged (see `learnalign.rewards`)."""

    verifier: str = "math"
    """`math` (exact match, then math-verify), `exact`, `choice` (letters), `code`, `file.py:function`,
    or `imported` (the rewards that `learnalign import` read)."""
    threshold: float = 1.0
    """Where a function gives rewards: a response is correct (counts for p) from this reward on."""
    sandbox_url: str = ""
    """Sandbox Fusion server that runs programs for `code`; empty runs them in a sandbox on this machine."""
    weak_sandbox: bool = False
    """Run programs here even where the system allows no namespaces: they can then read files and use the network."""
    workers: int = 2
    timeout_seconds: float = 5.0
    memory_mb: int = 2048


@dataclass(frozen=True)
class SketchConfig:
    """How a prompt's policy gradient is sketched: a signed fold to `dimension` numbers."""

    dimension: int = 8192
    seed: int = 0
    dtype: str = "float16"
    """Storage of the unit rows: `float16`, `int8` (one scale a row) or `float32`."""
    batch_tokens: int = 16384
    """Padded tokens of one forward and backward; a larger single group is still taken whole."""
    rank: int = 0
    """0 folds exact gradients; k folds random projections of them to k x k a layer (cheaper, noisier)."""
    weighting: str = "mean"
    """Of response tokens: `mean` (1/|y|: GRPO), `token` (all of the group alike: DAPO) or `constant` (Dr. GRPO)."""
    advantage_std: bool = True
    """Divide advantages by the group's standard deviation (GRPO) or not (Dr. GRPO)."""
    responses_used: str = "all"
    """`all`, or `one_correct`: one correct response stands for the group, which costs much fidelity."""
    kl_beta: float = 0.0
    """Strength of GRPO's KL term against `reference` (the paper: 0.04). 0 leaves it out, as it vanishes on the
    reference itself."""
    reference: str = ""
    """Reference policy of the KL term: a directory or hub name."""
    space: str = "full"
    """`full` (the weights of the policy) or `lora` (the adapter matrices A and B of a LoRA policy)."""
    share_prompts: bool = True
    """Compute a prompt once for several responses where the policy honors it and it is cheaper."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class SelectConfig:
    """How many prompts are taken, and by which strategy."""

    n: int = 1000
    strategy: str = "top"
    """A key of `learnalign.selection.STRATEGIES`."""
    seed: int = 0
    """Of the strategies that draw, and of the neighbor search."""
    target: str = ""
    """Pool file of a target set: prompts are aligned with its mean gradient instead of the pool's."""
    history: str = ""
    """JSON object of prompt ids and success rates over an earlier run, for the strategies `history` and `limr`."""
    quota_share: float = 1.0
    """At most this share of the selection from one value of `quota_column`; 1 sets no quota."""
    quota_column: str = ""
    """Column of the pool; empty takes its source."""
    duplicate_cosine: float = 0.0
    """No two selected prompts have gradients of this cosine or a larger one; 0 lets all pass."""
    candidates_per_pick: int = 20
    """Prompts of score > 0 that `greedy` chooses among, the best by score; up to 20,000 it takes all."""
    neighbor_seconds: float = 120.0
    """About what the neighbor search of `greedy` may take on two cores: beyond it, it approximates."""


@dataclass(frozen=True)
class OnlineConfig:
    """How an online selection picks again (see `learnalign.online`)."""

    visits: int = 3
    """How often training meets a prompt whose gradient agrees with the others' before unknown ones go first."""
    decay: float = 0.5
    """What a verdict still counts once training has come back to its prompt."""
    memory: float = 0.8
    """What verdicts and gradients still count an update later."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for the first setting that is out of range."""
        rules = {
            "visits": (self.visits >= 1, "at least 1"),
            "decay": (0 <= self.decay <= 1, "from 0 to 1"),
            "memory": (0 <= self.memory <= 1, "from 0 to 1"),
        }
        for name, (fine, rule) in rules.items():
            if not fine:
                raise ConfigError(f"online.{name} must be {rule}, found {getattr(self, name)}")


@dataclass(frozen=True)
class Config:
    """All settings of a run, in the order in which the stages use them."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sketch: SketchConfig = field(default_factory=SketchConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        _check_ranges(self)


POSITIVE = (
    "warmup.learning_rate",
    "warmup.clip",
    "warmup.prompts_per_step",
    "rollout.budget",
    "rollout.temperature",
    "rollout.max_new_tokens",
    "rollout.tensor_parallel",
    "rollout.concurrency",
    "rollout.patience_seconds",
    "reward.workers",
    "reward.timeout_seconds",
    "reward.memory_mb",
    "sketch.batch_tokens",
    "select.n",
    "select.candidates_per_pick",
    "select.neighbor_seconds",
)
CHOICES = {
    "policy.dtype": ("auto", "float32", "bfloat16", "float16", "float64"),
    "rollout.engine": ("transformers", "vllm", "server"),
    "rollout.allocation": ("fixed", "screen", "halving"),
    "sketch.dtype": ("float16", "int8", "float32"),
    "sketch.weighting": ("mean", "token", "constant"),
    "sketch.responses_used": ("all", "one_correct"),
    "sketch.space": ("full", "lora"),
    "select.strategy": ("top", "greedy", "random_positive", "band", "alignment", "random", "length", "history", "limr"),
}


VERIFIERS = ("math", "exact", "choice", "code", "imported")
FUNCTION = re.compile(r".+\.py:[^\W\d]\w*")
"""How a reward of one's own is named: `file.py:function`."""


def _check_ranges(config: Config) -> None:
    """Raise `ConfigError` for the first setting that is out of range."""
    for key in POSITIVE:
        value = get(config, key)
        if not value > 0:  # also catches NaN
            raise ConfigError(f"{key} must be greater than 0, found {value}")
    for key, choices in CHOICES.items():
        value = get(config, key)
        if value not in choices:
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, found {value!r}")
    if config.reward.verifier not in VERIFIERS and not FUNCTION.fullmatch(config.reward.verifier):
        raise ConfigError(
            f"reward.verifier must be one of {', '.join(VERIFIERS)}, or a function as file.py:function, "
            f"found {config.reward.verifier!r}"
        )
    if config.reward.sandbox_url and not config.reward.sandbox_url.startswith(("http://", "https://")):
        raise ConfigError(f"reward.sandbox_url must be an http address, found {config.reward.sandbox_url!r}")
    if not math.isfinite(config.reward.threshold):
        raise ConfigError(f"reward.threshold must be a finite number, found {config.reward.threshold}")
    if config.pool.limit < 0:
        raise ConfigError(f"pool.limit must be 0 (all rows) or more, found {config.pool.limit}")
    if config.rollout.responses < 2:
        raise ConfigError(
            f"rollout.responses must be at least 2 (a success rate needs a group), found {config.rollout.responses}"
        )
    if config.rollout.batch_sequences < 0:
        raise ConfigError(
            f"rollout.batch_sequences must be 0 (by engine) or more, found {config.rollout.batch_sequences}"
        )
    if config.rollout.engine == "server" and not config.rollout.base_urls:
        raise ConfigError("rollout.engine is server: name it, --set rollout.base_urls=http://host:8000/v1")
    _check_halving(config.rollout)
    _check_warmup(config)
    d = config.sketch.dimension
    if not 128 <= d <= 1 << 20 or d & (d - 1):
        raise ConfigError(f"sketch.dimension must be a power of two from 128 to 1048576, found {d}")
    if not (config.sketch.kl_beta >= 0) or (config.sketch.kl_beta > 0) != bool(config.sketch.reference):
        raise ConfigError(
            "a KL term needs sketch.kl_beta > 0 and sketch.reference, found "
            f"sketch.kl_beta = {config.sketch.kl_beta} and sketch.reference = {config.sketch.reference!r}"
        )
    if config.sketch.rank < 0:
        raise ConfigError(f"sketch.rank must be 0 (exact gradients) or more, found {config.sketch.rank}")
    if "{problem}" not in config.policy.plain_template:
        raise ConfigError("policy.plain_template must contain {problem}")
    if not 0.0 < config.select.quota_share <= 1.0:
        raise ConfigError(f"select.quota_share must lie above 0 and up to 1, found {config.select.quota_share}")
    if not 0.0 <= config.select.duplicate_cosine <= 1.0:
        raise ConfigError(f"select.duplicate_cosine must lie from 0 to 1, found {config.select.duplicate_cosine}")
    for key in ("rollout.seed", "sketch.seed", "select.seed"):
        if not 0 <= get(config, key) < 1 << 63:
            raise ConfigError(f"{key} must be from 0 to 2^63 - 1, found {get(config, key)}")


def _check_halving(rollout: RolloutConfig) -> None:
    if rollout.keep < 0:
        raise ConfigError(f"rollout.keep must be 0 (twice select.n) or more, found {rollout.keep}")
    if rollout.allocation == "halving" and not 2 < rollout.budget < rollout.responses:
        raise ConfigError(
            "rollout.budget (responses a prompt on average) must be more than 2 and less than rollout.responses "
            f"(the most that one gets), found {rollout.budget:g} and {rollout.responses}: set for example "
            "rollout.budget=8 and rollout.responses=32"
        )


def _check_warmup(config: Config) -> None:
    for key, least in (("prompts", 0), ("beta", 0), ("lora_rank", 0), ("seed", 0), ("responses", 2)):
        if not getattr(config.warmup, key) >= least:
            raise ConfigError(f"warmup.{key} must be at least {least}, found {getattr(config.warmup, key)}")
    if config.warmup.prompts and config.rollout.engine == "server" and not config.rollout.served_model:
        raise ConfigError(
            "after a warm-up the server must serve its result: make it with 'learnalign warmup', serve the folder "
            "warmup of the run directory, and name it with rollout.served_model"
        )


def get(config: Config, key: str) -> Any:
    """The value at a dotted key such as `rollout.seed`."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def read_config(path: str | Path) -> Config:
    """Read a TOML file; keys left out keep their defaults. Raises `ConfigError`."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return with_values(Config(), data, where=str(path))


def with_values(config: Config, data: dict[str, Any], where: str) -> Config:
    """A copy of `config` with the settings of a nested dictionary; `where` names the origin in errors."""
    hints = get_type_hints(Config)
    sections: dict[str, Any] = {}
    for section, values in data.items():
        if section not in hints:
            raise ConfigError(f"{where}: unknown section [{section}]; known: {', '.join(hints)}")
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: [{section}] must be a table, found {values!r}")
        sections[section] = _with_section(getattr(config, section), section, values, where)
    return replace(config, **sections)


def _with_section(current: Any, section: str, values: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(type(current))
    clean: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{where}: unknown key {section}.{name}; known: {', '.join(hints)}")
        expected = hints[name]
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not expected:
            raise ConfigError(
                f"{where}: {section}.{name} must be {expected.__name__}, found {type(value).__name__} {value!r}"
            )
        clean[name] = value
    return replace(current, **clean)


def parse_assignment(config: Config, assignment: str) -> Config:
    """Apply one `section.key=value` of the command line; the value is read as the setting's own type."""
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot):
        raise ConfigError(f"--set expects section.key=value, found {assignment!r}")
    hints = get_type_hints(type(getattr(config, section))) if section in get_type_hints(Config) else {}
    kind = hints.get(name, str)
    value: Any = text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"--set {key.strip()} must be true or false, found {text!r}")
        value = text == "true"
    elif kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise ConfigError(f"--set {key.strip()} must be {kind.__name__}, found {text!r}") from None
    return with_values(config, {section: {name: value}}, where=f"--set {assignment}")


def to_toml(config: Config) -> str:
    """The whole configuration as TOML text, every default spelled out."""
    return tomli_w.dumps(dataclasses.asdict(config))


def section_dict(config: Config, section: str) -> dict[str, Any]:
    """One section as a plain dictionary, for digests and manifests."""
    part = getattr(config, section)
    return {f.name: getattr(part, f.name) for f in fields(part)}
