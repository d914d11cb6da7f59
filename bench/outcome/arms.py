"""The arms: how each makes its chooser, and whether its batches are kept for groups with a signal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from bench.outcome.cells import Cell
from bench.outcome.choosers import Chooser
from bench.outcome.choosers.measured import Picks
from bench.outcome.choosers.oracle import Oracle
from bench.outcome.choosers.ours import Ours
from bench.outcome.choosers.passes import Batch, Passes, Sample, dynamic_batch, one_batch
from bench.outcome.choosers.skipping import Skipping
from bench.outcome.choosers.thompson import Thompson
from bench.outcome.measuring import Cost


class Arm(NamedTuple):
    """How a run gets what its steps train on."""

    chooser: Callable[[Cell, Cost], Chooser]
    """The cost is what selecting spends."""
    batch: Callable[[Chooser, int, Sample], Batch] = one_batch


def _whole_pool(cell: Cell, _: Cost) -> Chooser:
    return Passes(np.arange(len(cell.pool)), np.random.default_rng([cell.seed, 0]))


MEASURED = ("random", "learnable", "band", "random_positive", "top", "greedy")
ARMS: dict[str, Arm] = {
    "full": Arm(_whole_pool),
    "dynamic": Arm(_whole_pool, dynamic_batch),
    "mopps": Arm(lambda cell, _: Thompson(len(cell.pool), cell.seed)),
    "skipping": Arm(lambda cell, _: Skipping(len(cell.pool), cell.seed)),
    "online": Arm(partial(Ours, True)),
    "online-verdicts": Arm(partial(Ours, False)),
    "oracle": Arm(lambda cell, _: Oracle(cell)),
    **{name: Arm(partial(Picks, name, False)) for name in MEASURED},
    **{f"{name}-again": Arm(partial(Picks, name, True)) for name in MEASURED},
}
