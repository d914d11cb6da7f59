"""A model in this process as the policy that is measured: it is sketched where it stands, in training or not.

The sketcher puts it into evaluation mode with frozen weights for the length of a call and gives it back as it was.
This module samples nothing and does not choose prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from learnalign.config import SketchConfig
from learnalign.gradient import Sketcher
from learnalign.online.pairs import Pairs
from learnalign.scoring.rows import Integers

BATCH_TOKENS = 16384


class LivePolicy:
    """A `Measurer` over a loaded model.

    prompts: [N] token ids of the pool's prompts. pairs: what training has sampled. temperature: that it samples at.
    dimension, seed: of the sketches; the same in all measurements.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        pairs: Pairs,
        *,
        temperature: float = 1.0,
        dimension: int = 8192,
        seed: int = 0,
    ) -> None:
        self.model, self.prompts, self.pairs = model, prompts, pairs
        self.temperature, self.dimension, self.seed = temperature, dimension, seed

    def sketch(self, prompts: Integers) -> tuple[Integers, npt.NDArray[Any]]:
        """See `Measurer.sketch`. Raises what computing gradients raises."""
        found = self.pairs.of(prompts.tolist())
        groups = [pair.group(self.prompts[k]) for k, pair in found.items()]
        sketcher = Sketcher(
            self.model, SketchConfig(dimension=self.dimension, seed=self.seed), temperature=self.temperature
        )
        phi = np.zeros((len(groups), self.dimension), np.float32)
        for batch in sketcher.batches(groups, BATCH_TOKENS):
            phi[batch] = sketcher.sketch([groups[i] for i in batch])
        return np.array(list(found), np.int64), phi
