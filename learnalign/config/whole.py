"""All settings of a run together, and which of them do not fit each other.

Bounds of single settings are checked where their table is made (`checks`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from learnalign.config.sections import (
    ClusterConfig,
    OnlineConfig,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
    WarmupConfig,
)
from learnalign.config.values import FUNCTION, VERIFIERS
from learnalign.errors import ConfigError


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
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        _check_together(self)


def _check_together(config: Config) -> None:
    """Raise `ConfigError` for the first settings that do not fit each other, or a text that is not in its form."""
    _check_reward(config.reward)
    _check_rollout(config)
    _check_cluster(config)
    _check_sketch(config.sketch)
    _check_policy(config.policy)


def _check_reward(reward: RewardConfig) -> None:
    if reward.verifier not in VERIFIERS and not FUNCTION.fullmatch(reward.verifier):
        raise ConfigError(
            f"reward.verifier must be one of {', '.join(VERIFIERS)}, or a function as file.py:function, "
            f"found {reward.verifier!r}"
        )
    for source, verifier in reward.by_source.items():
        if verifier == "imported" or (verifier not in VERIFIERS and not FUNCTION.fullmatch(verifier)):
            raise ConfigError(
                f"reward.by_source: the verifier of {source!r} must be one of {', '.join(VERIFIERS[:-1])}, or a "
                f"function as file.py:function, found {verifier!r}"
            )
    if reward.sandbox_url and not reward.sandbox_url.startswith(("http://", "https://")):
        raise ConfigError(f"reward.sandbox_url must be an http address, found {reward.sandbox_url!r}")


def _check_rollout(config: Config) -> None:
    """What sampling and judging ask of each other, and of what comes before and after them."""
    rollout = config.rollout
    if rollout.engine == "server" and not rollout.base_urls:
        raise ConfigError("rollout.engine is server: name it, --set rollout.base_urls=http://host:8000/v1")
    if config.reward.graded and rollout.allocation != "fixed":
        raise ConfigError(
            f"rollout.allocation = {rollout.allocation} goes by which responses are correct, and with reward.graded "
            "none is: set rollout.allocation=fixed"
        )
    if rollout.allocation == "halving" and not 2 < rollout.budget < rollout.responses:
        raise ConfigError(
            "rollout.budget (responses a prompt on average) must be more than 2 and less than rollout.responses "
            f"(the most that one gets), found {rollout.budget:g} and {rollout.responses}: set for example "
            "rollout.budget=8 and rollout.responses=32"
        )
    if config.reward.graded and config.select.order in ("easy_to_hard", "gaussian"):
        raise ConfigError(
            f"select.order = {config.select.order} goes by success rates, and with reward.graded there are none: "
            "set select.order=rank or file"
        )
    if config.warmup.prompts and rollout.engine == "server" and not rollout.served_model:
        raise ConfigError(
            "after a warm-up the server must serve its result: make it with 'learnalign warmup', serve the folder "
            "warmup of the run directory, and name it with rollout.served_model"
        )


def _check_cluster(config: Config) -> None:
    address = config.cluster.address
    if address not in ("", "auto", "local") and not re.fullmatch(r"[^/]+:\d+", address):
        raise ConfigError(f"cluster.address must be auto, local or HOST:PORT of the head node, found {address!r}")
    if address and re.fullmatch(r"cuda:\d+", config.policy.device):
        raise ConfigError(
            f"policy.device is {config.policy.device!r}: workers are given their GPUs by Ray, say auto or cuda"
        )


def _check_sketch(sketch: SketchConfig) -> None:
    if sketch.dimension & (sketch.dimension - 1):
        raise ConfigError(f"sketch.dimension must be a power of two from 128 to 1048576, found {sketch.dimension}")
    if (sketch.kl_beta > 0) != bool(sketch.reference):
        raise ConfigError(
            "a KL term needs sketch.kl_beta > 0 and sketch.reference, found "
            f"sketch.kl_beta = {sketch.kl_beta} and sketch.reference = {sketch.reference!r}"
        )


def _check_policy(policy: PolicyConfig) -> None:
    if "{problem}" not in policy.plain_template:
        raise ConfigError("policy.plain_template must contain {problem}")
    if not _is_json_object(policy.chat_template_kwargs or "{}"):
        raise ConfigError(
            'policy.chat_template_kwargs must be a JSON object such as {"enable_thinking": false}, '
            f"found {policy.chat_template_kwargs!r}"
        )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
