"""Similarities of given pairs from the stored rows, and the truly nearest of a sample: on the host or on a GPU.

On the host the C++ core reads pairs from the mapped rows. On a GPU the stored rows are there once, as they are stored,
and pairs are multiplied in float64 in blocks that its memory bounds: sums of int8 products are exact there, as in C++.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from learnalign import _core
from learnalign.errors import ArrayError
from learnalign.scoring.rows import Floats, Integers, Rows, blocks
from learnalign.selection.neighbors.packages import torch_module

SAMPLED = 256
"""Rows on which recall is measured."""
TOGETHER = 2048
"""Rows read together."""
NARROW = ("int8", "float16", "float32")
"""Stored types whose products and norms float64 holds."""


class Pairs(Protocol):
    """S_ij of m rows; i and j are places among them."""

    def similarities(self, queries: Integers, others: Integers) -> Floats:
        """[q, f] S of `queries` [q] and `others` [q, f]."""

    def largest(self, queries: Integers, k: int) -> Floats:
        """[q, k] the largest S of each query with any other row, in any order."""


class HostPairs:
    """From mapped rows, on the CPU."""

    def __init__(self, rows: Rows, which: Integers, weight: npt.NDArray[np.float64]) -> None:
        """Raises `ArrayError` for a row that is not finite."""
        self._rows, self._which, self._weight = rows, np.ascontiguousarray(which, np.int64), weight
        self._core = _core.Pairs(rows.shards, self._which, np.ascontiguousarray(weight, np.float64), 0)

    def similarities(self, queries: Integers, others: Integers) -> Floats:
        """[q, f] S, the same bits in any order of summation."""
        return self._core.similarities(queries, np.ascontiguousarray(others), 0)

    def largest(self, queries: Integers, k: int) -> Floats:
        """[q, k] the largest, by float32 products block by block."""
        asked = self._z(queries)
        best = np.full((len(queries), k), -np.inf, np.float32)
        for part in blocks(np.arange(len(self._which)), TOGETHER):
            products = asked @ self._z(part).T
            products[queries[:, None] == part] = -np.inf
            both = np.concatenate([best, products], axis=1)
            best = -np.partition(-both, k - 1, axis=1)[:, :k]
        return best

    def _z(self, places: Integers) -> Floats:
        z: Floats = self._rows.unit(self._which[places]) * self._weight[places, None].astype(np.float32)
        return z


class DevicePairs:
    """From a copy of the stored rows on a torch device."""

    def __init__(self, rows: Rows, which: Integers, weight: npt.NDArray[np.float64], device: str, room: int) -> None:
        """room: bytes that a block may take beside the copy. Raises `ArrayError` for a row that is not finite."""
        torch = torch_module()
        self._room, self._device, m = room, device, len(which)
        self._stored = torch.empty((m, rows.dimension), dtype=getattr(torch, dtype_of(rows)), device=device)
        for part in blocks(np.arange(m), TOGETHER):
            self._stored[part[0] : part[0] + len(part)] = torch.from_numpy(rows.gather(which[part])).to(device)
        self._norm = torch.cat([self._wide(part).norm(dim=1) for part in self._parts(1)])
        bad = torch.nonzero(~torch.isfinite(self._norm))
        if len(bad):
            row = which[int(bad[0])]
            raise ArrayError(f"sketches must be finite: NaN or infinity in row {row}; drop or repair it")
        self._weight = torch.from_numpy(np.ascontiguousarray(weight, np.float64)).to(device)

    @staticmethod
    def bytes_of(rows: Rows, which: Integers) -> int:
        """That the copy takes."""
        return len(which) * rows.dimension * np.dtype(dtype_of(rows)).itemsize

    def similarities(self, queries: Integers, others: Integers) -> Floats:
        """[q, f] S from products in float64."""
        torch = torch_module()
        out = np.empty(others.shape, np.float32)
        for part in self._parts(others.shape[1] + 1, len(queries)):
            q = torch.from_numpy(np.ascontiguousarray(queries[part])).to(self._device)
            o = torch.from_numpy(np.ascontiguousarray(others[part])).to(self._device)
            products = torch.bmm(self._stored[o].double(), self._stored[q].double()[:, :, None])[:, :, 0]
            similar = self._similar(products, q[:, None], o)
            out[part] = similar.cpu().numpy()
        return out

    def largest(self, queries: Integers, k: int) -> Floats:
        """[q, k] the largest, by products in float64."""
        torch = torch_module()
        q = torch.from_numpy(queries).to(self._device)
        asked, best = self._stored[q].double(), torch.full((len(queries), k), -torch.inf, device=self._device)
        for part in self._parts(1):
            o = torch.arange(part.start, part.stop, device=self._device)
            similar = self._similar(asked @ self._wide(part).T, q[:, None], o[None, :])
            similar[q[:, None] == o[None, :]] = -torch.inf
            best = torch.cat([best, similar], 1).topk(k, dim=1).values
        found: Floats = best.cpu().numpy()
        return found

    def _similar(self, products: Any, q: Any, o: Any) -> Any:
        """float32 S of products of stored rows; 0 where one of them is zero."""
        norms = self._norm[q] * self._norm[o]
        cosine = (products / norms.where(norms > 0, 1.0)).clamp(-1.0, 1.0)
        return (self._weight[q] * self._weight[o] * cosine).float()

    def _wide(self, part: slice) -> Any:
        return self._stored[part].double()

    def _parts(self, each: int, count: int | None = None) -> Iterator[slice]:
        """Parts of all rows, or of `count`, each of which takes `each` rows as stored and as float64."""
        total = len(self._stored) if count is None else count
        size = max(self._room // (each * self._stored.shape[1] * 12), 1)
        for start in range(0, total, size):
            yield slice(start, min(start + size, total))


def dtype_of(rows: Rows) -> str:
    """The type in which rows are stored."""
    return str(rows.shards[0].dtype)


def ranked(pairs: Pairs, queries: Integers, found: Integers, k: int) -> tuple[Integers, Floats]:
    """[q, k] the most similar of those found, the row itself left out: best first, of equals the lower place."""
    similar = pairs.similarities(queries, found)
    similar[found == queries[:, None]] = -np.inf
    order = np.lexsort((found, -similar), axis=1)[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(similar, order, 1)


def measured_recall(pairs: Pairs, similarity: Floats, seed: int) -> tuple[float, int]:
    """The share of the k truly nearest rows that were found, on a sample, and the size of the sample.

    A found row counts when it is as similar as the k-th of an exact search, so that equals cannot be wrong.
    """
    rows, k = similarity.shape
    sample = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLED])
    best = pairs.largest(sample, k)
    tolerance = 1e-5 * np.abs(best).max(initial=0.0)  # two orders of summation
    return float(np.mean(similarity[sample] >= best.min(axis=1, keepdims=True) - tolerance)), len(sample)
