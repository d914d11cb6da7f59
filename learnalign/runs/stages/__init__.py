"""The stages of a run, in the order of the data: pool, warmup (only if asked for), rollout, reward, sketch, score,
select, report.

A stage module holds NAME, PRODUCTS (the files or folders of the run directory that it makes), COSTLY (whether its
products are kept from being overwritten when their inputs change), `inputs(run)` (the named values that determine
the products) and `execute(run, progress)`. Stages never import each other: they meet in the run directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from learnalign.config import Config
from learnalign.runs.directory import RunDir

STAGES = ("pool", "warmup", "rollout", "reward", "sketch", "score", "select", "report")


def stages(config: Config) -> tuple[str, ...]:
    """The stages of a run under a configuration."""
    return STAGES if config.warmup.prompts else tuple(name for name in STAGES if name != "warmup")


def told_to_templates(run: RunDir) -> dict[str, str]:
    """What chat templates are also told, as an input of a stage; nothing where nothing is set."""
    told = run.config.policy.chat_template_kwargs
    return {"policy.chat_template_kwargs": told} if told else {}


def graded_input(run: RunDir) -> dict[str, str]:
    """That rewards are graded, as an input of a stage; nothing where a reward says what is correct."""
    return {"reward.graded": "true"} if run.config.reward.graded else {}


@dataclass(frozen=True)
class Outcome:
    """What a stage reports: rows made, notes for the user, and facts for the manifest."""

    rows: int
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
