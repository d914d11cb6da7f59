"""The signed fold on a CPU: torch multiplies a band of rows, the C++ extension folds it while it is in cache.

The C++ part costs a few percent of the product. It does not fold float64: see `fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from learnalign.kernels.signs import TILE
from torch import Tensor

from learnalign._core import fold_band

BAND_ENTRIES = 1 << 20
"""Numbers of a band: 4 MiB stay in the last cache, and are enough rows for the matrix product to run at speed."""


def fold_native(
    phi: Tensor,
    delta: Tensor,
    x: Tensor,
    offsets: Sequence[int],
    *,
    layer: int,
    seed: int,
    first_row: int = 0,
    scale: float = 1.0,
) -> None:
    """`fold.fold_segments` for contiguous float32 phi on a CPU; delta and x are widened to float32.

    The result does not depend on the number of threads beyond what torch's matrix product does.
    """
    rows, columns = delta.shape[1], x.shape[1]
    height = max(1, BAND_ENTRIES // max(1, columns * TILE)) * TILE
    band = torch.empty(1, min(rows, height), columns, dtype=torch.float32, device="cpu")
    sums = phi.detach().numpy()
    for segment, (begin, end) in enumerate(pairwise(offsets)):
        if begin == end:
            continue
        inputs = x[begin:end].float()
        for first in range(0, rows, height):
            part = delta[begin:end, first : first + height].float()
            if scale != 1.0:
                part = part * scale
            product = band[:, : part.shape[1]]
            torch.mm(part.T, inputs, out=product[0])
            fold_band(
                sums[segment : segment + 1],
                product.numpy(),
                first_row=first_row + first,
                layer=layer,
                seed=seed & 0xFFFFFFFFFFFFFFFF,
                threads=torch.get_num_threads(),
            )
