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
    """[d] sum of the unit sketches; empty before the first gradient."""
    gradients: float = 0.0
    """How many that is."""
    squares: float = 0.0
    """Sum of the squares of their agreements, before these were divided by their size."""

    def aged(self, decay: float) -> Shared:
        """The same, counting `decay` times as much."""
        return Shared(self.total * decay, self.gradients * decay, self.squares * decay)


def compare(before: Shared, phi: npt.NDArray[Any], prompts: int) -> tuple[Doubles, Shared]:
    """[M] agreement_i = u_i . mean over j != i of u_j, over these gradients and those in `before`; and all of them.

    Agreements shrink with d and with how much prompts differ, so that they are divided by their root mean square, of
    these gradients and of those before: what comes back is about 1 in size.
    phi: [M, d] sketches of any length of M = prompts; a row of zeros or with values that are not finite takes no part
    (NaN).
    The diagonal is left out: a gradient that is all noise still agrees with itself.
    Raises `ArrayError` for other shapes, or sketches of another d than before.
    """
    phi = np.asarray(phi, np.float32)
    if phi.ndim != 2 or len(phi) != prompts:
        raise ArrayError(f"sketches of {prompts} prompts must have shape [{prompts}, d], found {list(phi.shape)}")
    if len(before.total) not in (0, phi.shape[1]):
        raise ArrayError(f"the measurements before had sketches of d = {len(before.total)}, this one {phi.shape[1]}")
    usable = np.isfinite(phi).all(axis=1) & phi.any(axis=1)
    rows, ones = np.ascontiguousarray(phi[usable]), np.ones(int(usable.sum()))
    agreement = np.full(len(phi), np.nan)
    if not len(rows):
        return agreement, before
    total = sum_unit_rows(rows, ones)
    if len(before.total):
        total += before.total
    gradients, squares = before.gradients + len(rows), before.squares
    if gradients > 1:
        with_own = score_shards([rows], ones, pool_size=len(rows), total=total).score * len(rows)
        found = (with_own - 1.0) / (gradients - 1.0)
        squares += float((found**2).sum())
        agreement[usable] = found / np.sqrt(squares / gradients) if squares > 0 else found
    return agreement, Shared(total, gradients, squares)
