"""What a run will cost, said once it has sampled for some minutes: as `learnalign plan`, from the run itself.

The longest prompts are sampled first, so that it errs on the side of more. This module writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from learnalign.rewards import Verdict
from learnalign.runs.directory import RunDir
from learnalign.runs.estimate import Sample, estimate

AFTER_SECONDS = 120.0
FEWEST = 32
"""Prompts that an estimate rests on at least."""
JUDGED = 64
"""Prompts whose responses are judged for it."""
COLUMNS = ["prompt_id", "prompt_tokens", "length", "text"]


class Early:
    """Waits for enough responses, and tells what the rest will cost."""

    def __init__(self, run: RunDir, prompts: int, say: Callable[[str], None]) -> None:
        self.run, self.prompts, self.say = run, prompts, say
        self._started = time.monotonic()
        self._count = 0
        self._of: dict[str, list[dict[str, Any]]] = {}

    def sampled(self, rollouts: pa.Table) -> bool:
        """Take note of whole prompts' responses, with the columns `ROLLOUTS`; whether it is time to tell."""
        self._count += len(rollouts)
        if len(self._of) < JUDGED:
            for response in rollouts.select(COLUMNS).to_pylist():
                if response["prompt_id"] in self._of or len(self._of) < JUDGED:
                    self._of.setdefault(response["prompt_id"], []).append(response)
        return time.monotonic() - self._started >= AFTER_SECONDS and len(self._of) >= FEWEST

    def _differ(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether a prompt is learnable."""
        graded = self.run.config.reward.graded
        return len({verdict.reward if graded else verdict.correct for verdict in verdicts}) > 1

    def tell(self, verdicts: Callable[[Sequence[str], Sequence[str]], list[Verdict]]) -> None:
        """Judge some of the responses, and say the estimate."""
        seconds = (time.monotonic() - self._started) / self._count
        groups = list(self._of.values())
        judged = [verdicts([one["text"] for one in group], [one["prompt_id"] for one in group]) for group in groups]
        sample = Sample(
            pool=self.prompts,
            skipped=0,
            responses=np.array([len(group) for group in groups], np.float64),
            correct=np.array([sum(verdict.correct for verdict in group) for group in judged], np.float64),
            learnable=np.array([self._differ(group) for group in judged]),
            response_tokens=np.array([sum(one["length"] for one in group) for group in groups], np.float64),
            prompt_tokens=np.array([len(group[0]["prompt_tokens"]) for group in groups], np.float64),
        )
        found = estimate(self.run.config, sample)
        for line in replace(found, seconds={"rollout": seconds * found.responses}).lines():
            self.say(f"rollout: {line}")
