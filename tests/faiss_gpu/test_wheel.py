"""The wheel `faiss-gpu` itself, on a machine without a GPU: `make faiss-gpu-test`.

Needs an environment of its own, which `make faiss-gpu-test` makes: faiss-cpu and faiss-gpu own the same folder. No GPU
index runs here; that the adapters call what the wheel has, and that the trial survives its abort, is what is shown.
"""

from __future__ import annotations

import inspect
import sys

import faiss
import numpy as np
import pytest

from learnalign.errors import ArrayError
from learnalign.selection.neighbors import faiss_gpu, packages, probe

VECTORS = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)

pytestmark = pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="shows what happens without a GPU")


def test_the_wheel_is_metas_and_alone() -> None:
    assert "GPU" in faiss.get_compile_options()
    assert faiss_gpu.has_gpu(faiss)
    assert packages.clash() == ""


def test_the_names_and_arguments_that_are_called() -> None:
    known = inspect.signature(faiss.knn_gpu).parameters
    assert list(known)[:4] == ["res", "xq", "xb", "k"]
    assert {"metric", "device", "vectorsMemoryLimit", "queriesMemoryLimit"} <= set(known)
    assert list(inspect.signature(faiss.index_cpu_to_all_gpus).parameters) == ["index", "co", "ngpu"]
    assert hasattr(faiss.GpuIndexIVFFlatConfig(), "device")
    options = faiss.GpuMultipleClonerOptions()
    assert hasattr(options, "shard")
    assert hasattr(options, "useFloat16")
    for name in ("train", "add", "search", "nprobe", "cp"):
        assert hasattr(faiss.GpuIndexIVFFlat, name), name


def test_bytes_raise_before_a_device_is_asked_for() -> None:
    rows = np.ones((8, 8), np.int8)
    with pytest.raises(TypeError, match="must be f32 or f16"):
        faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 2)


def test_the_trial_says_no_after_the_real_abort() -> None:
    """`knn_gpu` ends the process; the one that asked lives on."""
    code = (
        "import faiss, numpy as np\n"
        "from learnalign.selection.neighbors import faiss_gpu\n"
        "print('works: before', flush=True)\n"
        "print('works:', list(faiss_gpu.flat(faiss, np.eye(64, dtype=np.float32), 3, 1 << 20, 0)), flush=True)\n"
    )
    working, trouble = probe.tried([sys.executable, "-c", code])
    assert working == {"before"}
    assert trouble.startswith("exit code -6: Faiss assertion")


def test_the_trial_itself_ends_and_names_nothing_of_faiss() -> None:
    working, trouble = probe.working("cuda:0")
    assert working == frozenset()
    assert trouble


def test_an_empty_replica_is_noticed() -> None:
    with pytest.raises(ArrayError, match="FAISS copied 0 of 64 rows to its GPUs"):
        next(faiss_gpu.flat_on_all_gpus(faiss, VECTORS, 3))


def test_lists_refuse_without_a_device() -> None:
    with pytest.raises(RuntimeError, match="Invalid GPU device"):
        next(faiss_gpu.ivf(faiss, VECTORS, 2, 1, 3, 0, 0))


def test_more_than_2048_neighbors_are_refused_since_cuvs_is_missing() -> None:
    assert not faiss_gpu.has_cuvs(faiss)
    with pytest.raises(ArrayError, match="at most 2,048 neighbors"):
        faiss_gpu.check_fetch(faiss, 2049)
