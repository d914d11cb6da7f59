"""FAISS with GPUs that are CPU indexes: what its GPU names take and return, without a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np


class IvfFlat:
    """`GpuIndexIVFFlat` over `IndexIVFFlat`."""

    def __init__(self, resources: Any, d: int, lists: int, metric: int, config: Any) -> None:
        assert config.device == 0
        self._quantizer = faiss.IndexFlatIP(d)
        self._index = faiss.IndexIVFFlat(self._quantizer, d, lists, metric)
        self.cp = self._index.cp
        self.train, self.add = self._index.train, self._index.add

    @property
    def nprobe(self) -> int:
        return int(self._index.nprobe)

    @nprobe.setter
    def nprobe(self, probes: int) -> None:
        self._index.nprobe = probes

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(queries, k)


class Cagra:
    """`GpuIndexCagra` that compares all pairs."""

    def __init__(self, resources: Any, d: int, metric: int, config: Any) -> None:
        assert config.graph_degree < config.intermediate_graph_degree
        self._index = faiss.IndexFlatIP(d)

    def train(self, vectors: np.ndarray) -> None:
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int, *, params: Any) -> tuple[np.ndarray, np.ndarray]:
        assert params.itopk_size >= k
        return self._index.search(queries, k)


def knn_gpu(
    resources: Any, queries: np.ndarray, base: np.ndarray, k: int, *, metric: int, device: int,
    vectorsMemoryLimit: int, queriesMemoryLimit: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """All pairs; float16 or float32, as FAISS takes them."""
    assert device == 0
    assert 0 < queriesMemoryLimit <= vectorsMemoryLimit
    if queries.dtype not in (np.float16, np.float32):
        raise TypeError("xq must be f32 or f16")
    return faiss.knn(queries.astype(np.float32), base.astype(np.float32), k, metric=metric)


def module(gpus: int = 1, cuvs: bool = False) -> Any:
    """A module with so many GPUs."""
    cagra = {"GpuIndexCagra": Cagra, "GpuIndexCagraConfig": SimpleNamespace, "SearchParametersCagra": SimpleNamespace}

    def all_gpus(index: Any, co: Any) -> Any:
        assert not co.shard
        return index if gpus else faiss.IndexReplicas()

    return SimpleNamespace(
        METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
        StandardGpuResources=SimpleNamespace,
        GpuIndexIVFFlat=IvfFlat,
        GpuIndexIVFFlatConfig=SimpleNamespace,
        GpuMultipleClonerOptions=SimpleNamespace,
        IndexFlatIP=faiss.IndexFlatIP,
        index_cpu_to_all_gpus=all_gpus,
        knn_gpu=knn_gpu,
        get_num_gpus=lambda: gpus,
        omp_set_num_threads=faiss.omp_set_num_threads,
        **(cagra if cuvs else {}),
    )
