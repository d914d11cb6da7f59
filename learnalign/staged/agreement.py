"""How much the gradients of a stage agree with each other: the scores that its picks are drawn by.

Only gradients of one stage are compared. Those of an earlier one belong to another policy: they kept prompts among the
picks from which nothing more could be learned. This module makes no sketches and draws no picks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.errors import ArrayError
from learnalign.scoring import score_shards
from learnalign.staged.history import Doubles


def scores(phi: npt.NDArray[Any], value: Doubles) -> Doubles:
    """[M] score_i = V_i u_i . mean over j != i of V_j u_j, u the unit rows.

    phi: [M, d] sketches of any length; a row of zeros or with values that are not finite takes no part and scores 0.
    value: [M] V. The diagonal is left out: a gradient that is all noise still agrees with itself.
    Raises `ArrayError` for other shapes.
    """
    phi = np.asarray(phi, np.float32)
    if phi.ndim != 2 or len(phi) != len(value):
        raise ArrayError(f"sketches of {len(value)} prompts must have shape [{len(value)}, d], found {list(phi.shape)}")
    usable = np.isfinite(phi).all(axis=1) & phi.any(axis=1)
    count, v = int(usable.sum()), value[usable]
    found = np.zeros(len(value))
    if count > 1:
        with_own = score_shards([phi[usable]], v, pool_size=count).score
        found[usable] = (with_own * count - v**2) / (count - 1)
    return found
