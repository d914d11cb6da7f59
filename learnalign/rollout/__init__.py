"""Sampling of responses: what a rollout is, how many a prompt gets, reproducible draws, and the engines."""

from __future__ import annotations

from collections.abc import Callable

from learnalign.config import Config, RolloutConfig
from learnalign.policy import Renderer, load_policy
from learnalign.rollout.engine import Engine

BATCH_SEQUENCES = {"transformers": 256, "vllm": 4096, "server": 4096}
"""vLLM and servers refill their own batches, and idle only at the end of one of ours."""


def batch_sequences(config: RolloutConfig) -> int:
    """How many sequences are asked for in one call, and written as one part."""
    return config.batch_sequences or BATCH_SEQUENCES[config.engine]


def open_engine(
    config: Config, renderer: Renderer, longest: int, say: Callable[[str], None] = lambda _: None
) -> Engine:
    """The engine that `rollout.engine` names, ready to sample prompts of up to `longest` tokens.

    say: takes a line for the person who watches.

    Raises `PolicyError` or `EngineError` in one line when it cannot be had.
    """
    if config.rollout.engine == "vllm":
        from learnalign.rollout.vllm import VllmEngine

        return VllmEngine(config, renderer, longest)
    if config.rollout.engine == "server":
        from learnalign.rollout.openai import ServerEngine

        return ServerEngine(config, renderer, say)
    from learnalign.rollout.transformers import LocalEngine

    return LocalEngine(load_policy(config.policy), config.rollout)
