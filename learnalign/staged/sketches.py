"""The last sketches of the prompts that could be picked, and the scores that they give.

Rows are unit rows in float16, at most one a prompt, in memory: a stage makes a few times n of them. This module does
not make sketches and does not draw picks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.rows import Integers, Rows
from learnalign.scoring import score_shards
from learnalign.staged.history import Doubles


class Sketches(NamedTuple):
    """M sketches, in the order of their prompts."""

    prompts: Integers
    """[M] positions in the pool, rising."""
    rows: npt.NDArray[np.float16]
    """[M, d] unit rows."""
    stage: Integers
    """[M] the stage in which each was made."""

    def renewed(self, prompts: Integers, phi: npt.NDArray[Any], stage: int, memory: int) -> Sketches:
        """With the rows of a stage: they replace older ones, and what is older than `memory` stages is dropped.

        phi: [len(prompts), d] of any length; a row of zeros or with values that are not finite is left out.
        Raises `ArrayError` for another shape.
        """
        phi = np.asarray(phi, np.float32)
        if phi.ndim != 2 or len(phi) != len(prompts) or (len(self.rows) and phi.shape[1] != self.rows.shape[1]):
            raise ArrayError(
                f"sketches of {len(prompts)} prompts must have shape [{len(prompts)}, "
                f"{self.rows.shape[1] if len(self.rows) else 'd'}], found {list(phi.shape)}"
            )
        usable = np.isfinite(phi).all(axis=1) & phi.any(axis=1)
        prompts, units = prompts[usable], Rows([phi]).unit(np.flatnonzero(usable))[0]
        kept = (self.stage > stage - memory) & ~np.isin(self.prompts, prompts)
        every = np.concatenate([self.prompts[kept], prompts])
        made = np.concatenate([self.stage[kept], np.full(len(prompts), stage)])
        rows = np.concatenate([self.rows[kept], units.astype(np.float16)]) if kept.any() else units.astype(np.float16)
        order = np.argsort(every, kind="stable")
        return Sketches(every[order], rows[order], made[order])

    def scores(self, value: Doubles) -> Doubles:
        """[M] score_i = V_i u_i . mean over j != i of V_j u_j; value: [N] V of every prompt of the pool.

        The diagonal is left out: a gradient that is all noise still agrees with itself.
        """
        count = len(self.prompts)
        if count < 2:
            return np.zeros(count)
        v = value[self.prompts]
        with_own = score_shards([self.rows], v, pool_size=count).score
        others: Doubles = (with_own * count - v**2) / (count - 1)
        return others


NO_SKETCHES = Sketches(np.zeros(0, np.int64), np.zeros((0, 0), np.float16), np.zeros(0, np.int64))
