"""Rows near each other share a list (spherical k-means), and each row looks into the lists nearest to itself.

The same search as FAISS's IVFFlat index and with its k-means, but list by list: a matrix product of all queries that
look into a list with its rows, where IVFFlat scans one query at a time. A query's products meet in one buffer, from
which its best are taken once. Lists nearest to the query, not to its list's center: at 60,000 sketches of 4,096 and a
twentieth of all pairs that finds 0.99 of the 32 nearest in place of 0.93.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from learnalign.scoring.rows import Floats, Integers, blocks
from learnalign.selection.neighbors.all_pairs import Found
from learnalign.selection.neighbors.faiss_cpu import knn
from learnalign.selection.neighbors.largest import GROUP, largest
from learnalign.selection.neighbors.packages import faiss_module, torch_module

BUFFER = 1 << 28
"""Bytes of products that wait for their queries' best to be taken."""
SAMPLE_A_LIST, ITERATIONS = 64, 8
"""Of k-means."""
QUERIES = 4096
SMALLEST_NORM = 1e-30
"""Guards a division: a zero row stays zero."""


def in_lists(vectors: Floats, lists: int, probes: int, fetch: int, seed: int) -> Found:
    """The best `fetch` rows of the `probes` lists nearest to every row.

    A row whose lists hold too few looks into as many as hold enough. Memory: a copy of the vectors, list by list.
    """
    faiss = faiss_module()
    centers = _centers(vectors, lists, seed)
    parts = blocks(np.arange(len(vectors)), QUERIES)
    near = np.concatenate([knn(faiss, vectors[part], centers, probes) for part in parts])
    order = np.argsort(near[:, 0], kind="stable")  # queries that begin in one list look into nearly the same ones
    inside = _Lists(vectors, order, np.bincount(near[:, 0], minlength=lists))
    del vectors
    enough = inside.sizes[near].sum(axis=1) >= fetch
    many, few = order[enough[order]], order[~enough[order]]
    yield from inside.search(many, near[many], fetch)
    for queries in blocks(few, QUERIES):
        ranked = knn(faiss, inside.vectors[inside.place[queries]], centers, lists)
        too_few = (np.cumsum(inside.sizes[ranked], axis=1) < fetch).sum(axis=1)
        yield from inside.search(queries, ranked[:, : too_few.max() + 1], fetch)


def _centers(vectors: Floats, lists: int, seed: int) -> Floats:
    """[lists, d] of spherical k-means on a sample."""
    trainer = faiss_module().Kmeans(
        vectors.shape[1], lists, niter=ITERATIONS, spherical=True, seed=seed % 2**31, min_points_per_centroid=1
    )
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[: SAMPLE_A_LIST * lists])
    trained = vectors[sample]
    trained /= np.maximum(np.linalg.norm(trained, axis=1), SMALLEST_NORM)[:, None]
    trainer.train(trained)
    centers: Floats = trainer.centroids
    return centers


class _Lists:
    """The vectors, list by list."""

    def __init__(self, vectors: Floats, order: Integers, sizes: Integers) -> None:
        """order: [m] the vectors' numbers, list by list. sizes: how many are in each."""
        self.vectors, self.order, self.sizes = vectors[order], order, sizes
        self.starts = np.cumsum(sizes) - sizes
        self.place = np.empty_like(order)
        self.place[order] = np.arange(len(order))

    def search(self, queries: Integers, near: Integers, fetch: int) -> Found:
        """The best of the lists `near` [q, probes] of each query; together these hold `fetch` rows or more."""
        if len(queries):
            widest = int(self.sizes[near].sum(axis=1).max()) + GROUP
            for part in blocks(np.arange(len(queries)), max(BUFFER // (4 * widest), 1)):
                yield queries[part], self.order[self._best(self.place[queries[part]], near[part], fetch)]

    def _best(self, queries: Integers, near: Integers, fetch: int) -> Integers:
        """[q, fetch] places; queries are places too."""
        torch = torch_module()
        counts = self.sizes[near]
        offsets = np.cumsum(counts, axis=1) - counts  # where a list's products begin in its query's part of the buffer
        width = int(counts.sum(axis=1).max())
        width += -width % GROUP
        buffer = np.full((len(queries), width), -np.inf, np.float32)
        begins = (np.arange(len(queries))[:, None] * width + offsets).reshape(-1)
        by_list = np.argsort(near, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(near.reshape(-1), minlength=len(self.sizes)))
        for number, looking in enumerate(np.split(by_list, ends[:-1])):
            if len(looking) and (size := self.sizes[number]):
                base = torch.from_numpy(self.vectors[self.starts[number] : self.starts[number] + size])
                asked = torch.from_numpy(self.vectors[queries[looking // near.shape[1]]])
                windows = sliding_window_view(buffer.reshape(-1), size, writeable=True)
                windows[begins[looking]] = (asked @ base.T).numpy()
        columns = largest(torch.from_numpy(buffer), fetch)[1]
        slots = torch.searchsorted(torch.from_numpy(offsets), columns, right=True).numpy() - 1
        places: Integers = np.take_along_axis(self.starts[near] - offsets, slots, 1) + columns.numpy()
        return places
