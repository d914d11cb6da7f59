"""One training run of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from bench.outcome import grpo
from bench.outcome.arms import Arm
from bench.outcome.cells import Cell
from bench.outcome.choosers.passes import Batch
from bench.outcome.measuring import Cost, Integers
from bench.outcome.pools import Prompt


def run(arm: Arm, cell: Cell) -> dict[str, Any]:
    """Train; what the table and the plot need, as JSON would hold it."""
    regime, model = cell.regime, deepcopy(cell.start)
    optimizer = grpo.make_optimizer(model)
    generator = torch.Generator().manual_seed(cell.seed)
    training, selecting = cell.no_cost(), cell.no_cost()
    chooser = arm.chooser(cell, selecting)

    def sample(prompts: Integers) -> list[grpo.Group]:
        return grpo.rollout(model, [cell.encoded[k] for k in prompts], grpo.RESPONSES, generator)

    curve, batches = [_point(0, cell.start_score, training, selecting)], []
    for step in range(1, regime.steps + 1):
        chooser.prepare(model, step - 1)
        batch = arm.batch(chooser, regime.batch, sample)
        grpo.train_step(model, optimizer, batch.groups)
        training.add_sampled(batch.sampled)
        training.add_back(batch.groups)
        batches.append(batch)
        if step % regime.evaluated == 0 or step == regime.steps:
            curve.append(_point(step, grpo.evaluate(model, cell.held_out), training, selecting))
    return {"curve": curve, **described(batches, cell.pool)}


def _point(step: int, score: grpo.Scored, training: Cost, selecting: Cost) -> dict[str, Any]:
    return {"step": step, **score._asdict(), "training": training.counted(), "selecting": selecting.counted()}


def described(batches: Sequence[Batch], pool: Sequence[Prompt]) -> dict[str, Any]:
    """Of what was trained on: shares of groups with a signal, wrong answers (also of these groups alone), coins."""
    prompts = np.concatenate([batch.prompts for batch in batches])
    mixed = np.array([group.mixed for batch in batches for group in batch.groups])
    wrong = np.array([not prompt.right for prompt in pool])[prompts]
    coins = np.array([prompt.family == "coin" for prompt in pool])[prompts]
    return {
        "mixed": float(mixed.mean()),
        "wrong": float(wrong.mean()),
        "wrong_of_mixed": float(wrong[mixed].mean()),
        "coins": float(coins.mean()),
        "distinct": len(np.unique(prompts)),
    }
