"""What a worker does of the sketch stage: it loads the policy once, and sketches batch after batch.

The driver cuts the batches, from lengths and from what the first worker says of the policy's costs, and tells with
every batch where prompts are shared: so a batch has the same bits whichever worker gets it. This module writes no
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from learnalign.cluster import Later, Needs
from learnalign.config import Config, PolicyConfig, SketchConfig
from learnalign.gradient import Costs, Group, Honored, Sketched, Sketcher
from learnalign.policy import load_policy, policy_digest
from learnalign.runs.workers import device_kind, same_versions


@dataclass(frozen=True)
class Sketching:
    """See `learnalign.cluster.Work`. threads: of a processor; sums in another order have other last bits."""

    policy: PolicyConfig
    sketch: SketchConfig
    temperature: float
    threads: int

    @classmethod
    def of(cls, config: Config, policy: PolicyConfig) -> Sketching:
        """The work that a run asks for, with as many threads as this process has."""
        return cls(policy, config.sketch, config.rollout.temperature, torch.get_num_threads())

    @property
    def needs(self) -> Needs:
        """A GPU, or a processor a thread."""
        return Needs(1, self.threads)

    def identity(self) -> dict[str, str]:
        """Versions, and digests of the weights."""
        models = {"policy": self.policy.model, "reference": self.sketch.reference}
        return {**same_versions(), **{name: policy_digest(model) for name, model in models.items() if model}}

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[OpenSketcher]:
        """Load policy and reference, and probe them."""
        torch.set_num_threads(self.threads)
        sketcher = Sketcher(
            load_policy(self.policy).model,
            self.sketch,
            temperature=self.temperature,
            reference=self._reference(),
            say=say,
        )
        yield OpenSketcher(sketcher)

    def _reference(self) -> nn.Module | None:
        """The reference policy of the KL term, loaded like the policy."""
        name = self.sketch.reference
        return load_policy(replace(self.policy, model=name)).model if name else None


class OpenSketcher:
    """A sketcher that computes units: groups, and how long the rows are in which their prompts are shared."""

    def __init__(self, sketcher: Sketcher) -> None:
        self.sketcher = sketcher

    @property
    def device(self) -> str:
        """See `Opened.device`."""
        return device_kind(self.sketcher.device)

    @property
    def about(self) -> dict[str, Any]:
        """What the probe found of the policy, and threads: both decide bits."""
        facts = {name: value for name, value in self.facts().items() if "shares" not in name}
        return {"threads": torch.get_num_threads(), **facts, "costs": self.costs()}

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        coverage = self.sketcher.coverage
        return {
            "covered_weights": coverage.covered,
            "all_weights": coverage.total,
            "not_covered": coverage.missing,
            "not_covered_shares_of_squared_gradient": {n: float(f"{x:.3g}") for n, x in coverage.shares.items()},
            "one_prompt_a_pass": self.sketcher.alone,
            "prompts_shared": not self.sketcher.unshared,
            "prompts_unshared_because": self.sketcher.unshared,
            "logits_whole_because": self.sketcher.head.whole,
        }

    def costs(self) -> Costs:
        """What the driver cuts by, but for `honored`."""
        return replace(self.sketcher.costs, honored=None)

    def honored(self, step: int) -> bool:
        """Whether prompts can be shared in rows of `step` tokens."""
        honored = self.sketcher.costs.honored
        assert isinstance(honored, Honored)
        return honored.ask(step)

    def __call__(self, groups: Sequence[Group], shared: dict[int, bool]) -> Sketched | Later:
        """Sketches [len(groups), d] as float32, and gaps; later, where a GPU has been given them and is not done.

        shared: answers of `honored` that the driver has.
        """
        honored = self.sketcher.costs.honored
        if isinstance(honored, Honored):
            honored.known = shared
        pending = self.sketcher.launch(groups)

        def sketched() -> Sketched:
            found = pending.wait()
            return found._replace(phi=found.phi.astype(np.float32, copy=False))

        return sketched() if pending.done() else Later(sketched)


def costs_of_workers(ask: Callable[..., Any]) -> Costs:
    """The costs by which to cut batches. ask: see `Workers.ask`."""
    costs: Costs = ask("costs")
    return replace(costs, honored=Honored(lambda step: bool(ask("honored", step)))) if costs.share else costs


def shared_rows(costs: Costs, groups: Sequence[Group]) -> dict[int, bool]:
    """In rows of how many tokens the prompts of a batch, or of a part of it, can be shared."""
    if not isinstance(costs.honored, Honored):
        return {}
    longest = max(len(group.prompt) + max(map(len, group.responses), default=0) for group in groups)
    return costs.honored.up_to(min(longest, costs.window or longest))
