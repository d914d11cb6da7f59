"""The k largest of every row of a matrix of products, without sorting the row.

The k largest lie in the k groups of 32 whose maxima are largest: a group outside of these has k groups before it, each
with an entry that is as large as any of its own. So one pass finds the maxima, and k x 32 entries are looked at.
"""

from __future__ import annotations

from typing import Any

GROUP = 32


def largest(products: Any, k: int) -> tuple[Any, Any]:
    """Of [q, n] products the min(k, n) largest of each row, best first: values and [q, min(k, n)] int64 columns.

    Of equal ones any may be taken. torch tensors on any device.
    """
    import torch

    count, width = products.shape
    k = min(k, width)
    if width < 4 * k * GROUP:
        top = products.topk(k, dim=1)
        return top.values, top.indices
    if width % GROUP:
        products = torch.nn.functional.pad(products, (0, -width % GROUP), value=-torch.inf)
    grouped = products.view(count, -1, GROUP)
    groups = grouped.amax(2).topk(k, dim=1, sorted=False).indices
    within = grouped.gather(1, groups[:, :, None].expand(-1, -1, GROUP)).reshape(count, -1)
    top = within.topk(k, dim=1)
    columns = groups.gather(1, top.indices // GROUP) * GROUP + top.indices % GROUP
    return top.values, columns
