"""How much a prompt's gradient agrees with what the gradients of late have in common.

Gradients of earlier measurements belong to other policies, so that they count less and less; the direction that they
share changes more slowly than any of them. This module makes no sketches and draws no picks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.online.history import Doubles
from learnalign.scoring import score_shards, sum_unit_rows


class Shared(NamedTuple):
    """What the gradients of all measurements have in common, with discounts."""

    total: Doubles
    """[d] sum of V_j u_j, u the unit sketches; empty before the first gradient."""
    gradients: float = 0.0
    """How many that is."""

    def aged(self, decay: float) -> Shared:
        """The same, counting `decay` times as much."""
        return Shared(self.total * decay, self.gradients * decay)


def compare(before: Shared, phi: npt.NDArray[Any], value: Doubles) -> tuple[Doubles, Shared]:
    """[M] agreement_i = u_i . mean over j != i of V_j u_j, over these gradients and those in `before`; and all of them.

    phi: [M, d] sketches of any length; a row of zeros or with values that are not finite takes no part: NaN.
    value: [M] V > 0. The diagonal is left out: a gradient that is all noise still agrees with itself.
    Raises `ArrayError` for other shapes, or sketches of another d than before.
    """
    phi = np.asarray(phi, np.float32)
    if phi.ndim != 2 or len(phi) != len(value):
        raise ArrayError(f"sketches of {len(value)} prompts must have shape [{len(value)}, d], found {list(phi.shape)}")
    if len(before.total) not in (0, phi.shape[1]):
        raise ArrayError(f"the measurements before had sketches of d = {len(before.total)}, this one {phi.shape[1]}")
    usable = np.isfinite(phi).all(axis=1) & phi.any(axis=1)
    rows, v = np.ascontiguousarray(phi[usable]), value[usable]
    agreement = np.full(len(value), np.nan)
    if not len(rows):
        return agreement, before
    total = sum_unit_rows(rows, v)
    after = Shared(total + before.total if len(before.total) else total, before.gradients + len(rows))
    if after.gradients > 1:
        with_own = score_shards([rows], v, pool_size=len(rows), total=after.total).score * len(rows) / v
        agreement[usable] = (with_own - v) / (after.gradients - 1)
    return agreement, after
