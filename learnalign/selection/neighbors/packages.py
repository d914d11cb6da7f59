"""FAISS and torch, imported where a search begins: on one thread in a fork, and FAISS from one wheel only."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from learnalign.errors import MissingPackageError

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu11", "faiss-gpu-cuvs")
_searched_in = 0
"""The process of the first search."""


def faiss_module() -> Any:
    """FAISS. Raises `MissingPackageError` where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            "the search for neighbors on a CPU", "faiss", error, "the strategy top works without it"
        ) from error
    if _in_a_fork():
        faiss.omp_set_num_threads(1)
    return faiss


def torch_module() -> Any:
    """torch."""
    import torch

    if _in_a_fork():
        torch.set_num_threads(1)
    return torch


def _in_a_fork() -> bool:
    """Whether another process searched first: a child of `fork` lacks OpenMP's threads and would wait for them."""
    global _searched_in
    _searched_in = _searched_in or os.getpid()
    return _searched_in != os.getpid()


def clash() -> str:
    """A sentence where two wheels of FAISS are installed, which own the same folder; empty otherwise."""
    there = [name for name in WHEELS if _installed(name)]
    if len(there) < 2:
        return ""
    return (
        f"{' and '.join(there)} are both installed and overwrite each other's files: "
        f"pip uninstall {' '.join(there)}, then install one of them"
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
