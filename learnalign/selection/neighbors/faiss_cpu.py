"""FAISS's blocked matrix products on a CPU: every pair of float32 rows, whole (`exact`) or folded (`flat`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from learnalign.scoring.rows import Floats, Integers, blocks
from learnalign.selection.neighbors.all_pairs import QUERIES, Found
from learnalign.selection.neighbors.packages import faiss_module


def all_pairs(vectors: Floats, fetch: int) -> Found:
    """The best `fetch` of every row, itself among them."""
    faiss = faiss_module()
    for queries in blocks(np.arange(len(vectors)), QUERIES):
        yield queries, knn(faiss, vectors[queries], vectors, fetch)


def knn(faiss: Any, queries: Floats, base: Floats, k: int) -> Integers:
    """[q, k] rows of `base` with the largest inner products."""
    index: Integers = faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)[1].astype(np.int64)
    return index
