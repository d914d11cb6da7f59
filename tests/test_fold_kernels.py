"""The fold's kernels, C++ and Triton, against the float64 reference: same map, same sums, same bits every time.

Without a GPU the Triton kernels run in Triton's interpreter, with it they run compiled. That they compile for
every GPU generation, and to what, is tested in a process of its own, where the interpreter is off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from learnalign.kernels.fold import backend, fold_matrices, fold_reference, fold_segments
from learnalign.kernels.fold_native import fold_native
from learnalign.kernels.signs import TILE, bucket_masks, signs
from torch import Tensor

from learnalign._core import fold_band
from learnalign.errors import ArrayError

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton (pip install triton)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # conftest turns the interpreter on where there is no GPU

if find_spec("triton"):
    from learnalign.kernels import fold_triton

SEED, LAYER = (1 << 64) - 12345, (1 << 32) - 77
TOLERANCE = 2.0
"""A kernel's error may be this many times that of plain float32 torch on the same inputs, plus FLOOR."""
FLOOR = 1e-6
"""Of the largest number of the sketch: one rounding of the last sum."""
OFFSETS = [0, 5, 5, 6, 20]
SHAPES = [(1, 1), (3, 130), (130, 129)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def problem(m: int, n: int, dtype: torch.dtype, tokens: int = OFFSETS[-1]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m * 1000 + n)
    return (
        torch.randn(tokens, m, generator=generator).to(dtype),
        torch.randn(tokens, n, generator=generator).to(dtype),
    )


def assert_no_worse_than_eager(phi: Tensor, delta: Tensor, x: Tensor, offsets: list[int], first_row: int) -> None:
    truth = torch.zeros(phi.shape, dtype=torch.float64)
    fold_reference(truth, delta, x, offsets, layer=LAYER, seed=SEED, first_row=first_row)
    eager = torch.zeros(phi.shape)
    fold_reference(eager, delta, x, offsets, layer=LAYER, seed=SEED, first_row=first_row)
    error, yardstick = ((y.double() - truth).abs().max().item() for y in (phi.cpu(), eager))
    assert error <= TOLERANCE * yardstick + FLOOR * truth.abs().max().item()


@pytest.mark.parametrize("dimension", [128, 8192, 65536])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_fold_is_the_reference(dimension: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    delta, x = problem(*shape, dtype)
    phi = torch.zeros(4, dimension)
    fold_native(phi, delta, x, OFFSETS, layer=LAYER, seed=SEED, first_row=256)
    assert_no_worse_than_eager(phi, delta, x, OFFSETS, 256)
    assert phi[1].abs().sum() == 0
    assert phi[3].abs().sum() > 0


@needs_triton
@pytest.mark.parametrize(
    ("dimension", "shape", "dtype"),
    [
        (128, (1, 1), torch.float32),
        (128, (130, 129), torch.bfloat16),
        (256, (3, 130), torch.float16),
        (2048, (130, 129), torch.float32),
        (16384, (3, 130), torch.bfloat16),
        (32768, (130, 1), torch.float32),
    ],
)
def test_triton_fold_is_the_reference(dimension: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    delta, x = problem(*shape, dtype)
    phi = torch.zeros(4, dimension, device=DEVICE)
    places = (delta.to(DEVICE), x.to(DEVICE), OFFSETS)
    fold_triton.fold_triton(phi, *places, layer=LAYER, seed=SEED, first_row=256)
    assert_no_worse_than_eager(phi, delta, x, OFFSETS, 256)
    assert phi[1].abs().sum() == 0
    assert phi[3].abs().sum() > 0


@needs_triton
@pytest.mark.parametrize(("dimension", "dtype"), [(128, torch.bfloat16), (8192, torch.float16)])
def test_descriptors_give_the_bits_of_pointers(
    dimension: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, whose sums are exact on any path: at a segment's end nothing of the next one comes in."""
    generator = torch.Generator().manual_seed(1)
    wide = [torch.randint(-3, 4, (20, 136), generator=generator).to(DEVICE, dtype) for _ in range(2)]
    delta, x = wide[0][:, :130], wide[1][:, 8:]
    assert fold_triton.describable(delta)
    assert fold_triton.describable(x)
    taken: list[bool] = []
    settings = fold_triton.settings

    def noted(dtype: torch.dtype, dimension: int, described: bool, generation: int) -> dict[str, int]:
        taken.append(described)
        return settings(dtype, dimension, described, generation)

    monkeypatch.setattr(fold_triton, "settings", noted)
    truth = torch.zeros(4, dimension, dtype=torch.float64)
    fold_reference(truth, delta.cpu(), x.cpu(), OFFSETS, layer=LAYER, seed=SEED)
    for describable in (fold_triton.describable, lambda matrix: False):
        monkeypatch.setattr(fold_triton, "describable", describable)
        phi = torch.zeros(4, dimension, device=DEVICE)
        fold_triton.fold_triton(phi, delta, x, OFFSETS, layer=LAYER, seed=SEED)
        assert torch.equal(phi.cpu().double(), truth)
    has_them = DEVICE == "cpu" or torch.cuda.get_device_capability()[0] >= fold_triton.HOPPER
    assert taken == [has_them, False]


@needs_triton
def test_what_a_descriptor_cannot_take_goes_by_pointers() -> None:
    """Rows that do not begin at multiples of 16 bytes, memory that does not, numbers of 4 bytes."""
    even = torch.zeros(4, 136, dtype=torch.bfloat16, device=DEVICE)
    assert fold_triton.describable(even)
    assert not fold_triton.describable(even[:, 1:])
    assert not fold_triton.describable(torch.zeros(4, 132, dtype=torch.bfloat16, device=DEVICE))
    assert not fold_triton.describable(even.float())


@needs_triton
@pytest.mark.parametrize("described", [False, True])
def test_long_segments_of_small_matrices_are_cut(described: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile, parts of 64 tokens at least: every token once, with and without a scale, and alike in any company."""
    monkeypatch.setattr(fold_triton, "SPLIT_TOKENS", 64)
    monkeypatch.setattr(fold_triton, "describable", lambda matrix: described)
    generator = torch.Generator().manual_seed(2)
    offsets = [0, 3, 203, 203, 340]
    delta, x = (torch.randint(-3, 4, (340, 128), generator=generator).to(DEVICE, torch.bfloat16) for _ in range(2))
    assert fold_triton.shares(1, 4, 200) == (4, 4)
    truth = torch.zeros(4, 1024, dtype=torch.float64)
    fold_reference(truth, delta.cpu(), x.cpu(), offsets, layer=LAYER, seed=SEED)
    for scale in (1.0, 0.5):
        phi = torch.zeros(4, 1024, device=DEVICE)
        fold_triton.fold_triton(phi, delta, x, offsets, layer=LAYER, seed=SEED, scale=scale)
        assert torch.equal(phi.cpu().double(), scale * truth)


@needs_triton
def test_programs_are_enough_and_partial_sketches_not_too_many() -> None:
    for tiles in (1, 2, 24, 144, 840, 82_000):
        for segments in (1, 8, 64, 1000):
            for longest in (0, 1, 300, 2500, 8000):
                programs, splits = fold_triton.shares(tiles, segments, longest)
                assert 1 <= programs <= min(fold_triton.MOST, tiles * splits)
                assert splits == 1 or splits * fold_triton.SPLIT_TOKENS < longest + fold_triton.SPLIT_TOKENS
    assert fold_triton.shares(840, 64, 250)[0] == 32, "short segments: few partial sketches each"
    assert fold_triton.shares(24, 1, 8000) == (240, 10), "narrow layers: the tokens are cut"


@pytest.mark.parametrize("name", ["native", "reference", "triton"])
def test_a_scale_multiplies_what_is_added(name: str) -> None:
    if name == "triton" and find_spec("triton") is None:
        pytest.skip("needs Triton (pip install triton)")
    device = DEVICE if name == "triton" else "cpu"
    fold = {"native": fold_native, "reference": fold_reference}.get(name) or fold_triton.fold_triton
    delta, x = (part.to(device) for part in problem(130, 129, torch.bfloat16))
    ones, scaled = torch.ones(4, 512, device=device), torch.ones(4, 512, device=device)
    fold(ones, delta, x, OFFSETS, layer=LAYER, seed=SEED)
    fold(scaled, delta, x, OFFSETS, layer=LAYER, seed=SEED, scale=-0.3)
    torch.testing.assert_close(scaled - 1, -0.3 * (ones - 1), rtol=1e-5, atol=1e-5)


@needs_triton
def test_triton_fold_walks_many_tiles_per_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs for nine tiles in groups of two rows, segments one after another, inputs that are views."""
    monkeypatch.setattr(fold_triton, "MOST", 2)
    monkeypatch.setattr(fold_triton, "GROUPED_ROWS", 2)
    monkeypatch.setattr(fold_triton, "PARTIAL_BYTES", 1)
    delta, x = problem(400, 270, torch.float32, 10)
    delta, x = delta[2:8, 7:307], x[2:8, 5:265]
    results = []
    for _ in range(2):
        phi = torch.ones(2, 1024, device=DEVICE)
        fold_triton.fold_triton(phi, delta.to(DEVICE), x.to(DEVICE), [0, 1, 6], layer=LAYER, seed=SEED)
        results.append(phi)
    assert torch.equal(*results)
    assert_no_worse_than_eager(results[0].cpu() - 1, delta, x, [0, 1, 6], 0)


@needs_triton
def test_triton_signs_and_buckets_are_those_of_the_reference() -> None:
    """Read off the fold itself, to the bit: a one-hot delta makes a matrix with one row, whose entries differ."""
    dimension, columns = 16384, 256
    for row in (0, 127, 130):
        delta, x = torch.zeros(1, 131), torch.arange(1.0, columns + 1)[None]
        delta[0, row] = 1.0
        phi = torch.zeros(1, dimension, device=DEVICE)
        fold_triton.fold_triton(phi, delta.to(DEVICE), x.to(DEVICE), [0, 1], layer=LAYER, seed=SEED)
        expected = np.zeros(dimension, dtype=np.float32)
        sign = signs(SEED, LAYER, torch.tensor([row]), columns).numpy()[0].astype(int)
        masks = bucket_masks(SEED, LAYER, torch.tensor([row // TILE]), 2, dimension).numpy()[0]
        for c in range(columns):
            expected[(row % TILE * TILE + c % TILE) ^ masks[c // TILE]] += sign[c] * (c + 1)
        assert np.array_equal(phi[0].cpu().numpy(), expected)


@pytest.mark.parametrize("simd", ["avx2", "portable"])
def test_native_signs_and_buckets_are_those_of_the_reference(simd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_simd(simd, monkeypatch)
    matrix = torch.arange(1.0, 150 * 260 + 1).reshape(1, 150, 260)  # whole numbers: every sum is exact
    for dimension in (1024, 1 << 20):
        phi, truth = torch.zeros(1, dimension), torch.zeros(1, dimension, dtype=torch.float64)
        fold_band(phi.numpy(), matrix.numpy(), first_row=384, layer=LAYER, seed=SEED, threads=1)
        fold_matrices(truth, matrix.double(), layer=LAYER, seed=SEED, first_row=384)
        assert torch.equal(phi.double(), truth)


def use_simd(simd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if simd == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setenv("LEARNALIGN_SIMD", simd)


def test_every_path_and_thread_count_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(3, 1300, 1000, generator=torch.Generator().manual_seed(1)).numpy()
    results = []
    for simd in ("portable", "avx2"):
        use_simd(simd, monkeypatch)
        for threads in (1, 2, 7):
            phi = np.zeros((3, 2048), dtype=np.float32)
            fold_band(phi, matrices, first_row=0, layer=LAYER, seed=SEED, threads=threads)
            results.append(phi.tobytes())
    assert len(set(results)) == 1


def test_bands_do_not_change_what_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    delta, x = problem(300, 150, torch.float32)
    phi = torch.zeros(4, 1024)
    monkeypatch.setattr("learnalign.kernels.fold_native.BAND_ENTRIES", 1)
    fold_native(phi, delta, x, OFFSETS, layer=LAYER, seed=SEED)
    assert_no_worse_than_eager(phi, delta, x, OFFSETS, 0)


@pytest.mark.parametrize(("m", "n", "tokens"), [(0, 5, 6), (5, 0, 6), (5, 5, 0)])
def test_empty_shapes_add_nothing(m: int, n: int, tokens: int) -> None:
    offsets = [0, tokens // 2, tokens]
    for fold in (fold_native, fold_reference):
        phi = torch.ones(2, 256)
        fold(phi, torch.ones(tokens, m), torch.ones(tokens, n), offsets, layer=LAYER, seed=SEED)
        assert torch.equal(phi, torch.ones_like(phi))


@needs_triton
@pytest.mark.parametrize(("m", "n", "tokens"), [(0, 5, 6), (5, 0, 6), (5, 5, 0)])
def test_empty_shapes_add_nothing_in_triton(m: int, n: int, tokens: int) -> None:
    phi = torch.ones(2, 256, device=DEVICE)
    inputs = (torch.ones(tokens, m, device=DEVICE), torch.ones(tokens, n, device=DEVICE))
    fold_triton.fold_triton(phi, *inputs, [0, tokens // 2, tokens], layer=LAYER, seed=SEED)
    assert torch.equal(phi, torch.ones_like(phi))


def test_no_segments_are_no_error() -> None:
    phi = torch.zeros(0, 256)
    fold_segments(phi, torch.ones(3, 4), torch.ones(3, 4), [0], layer=LAYER, seed=SEED)


@needs_triton
def test_no_segments_are_no_error_in_triton() -> None:
    phi = torch.zeros(0, 256)
    fold_triton.fold_triton(phi, torch.ones(3, 4), torch.ones(3, 4), [0], layer=LAYER, seed=SEED)


def test_dispatch_says_what_it_uses() -> None:
    """float32 rows of a CPU have the kernel; float64 and scattered rows go to plain torch, to the same sums."""
    assert backend(torch.zeros(2, 128)) == "native"
    assert backend(torch.zeros(2, 128, dtype=torch.float64)) == "reference"
    scattered = torch.zeros(128, 2).T
    assert backend(scattered) == "reference"
    delta, x = problem(130, 129, torch.float32)
    whole = torch.zeros(4, 512)
    fold_segments(whole, delta, x, OFFSETS, layer=LAYER, seed=SEED)
    view = torch.zeros(512, 4).T
    fold_segments(view, delta, x, OFFSETS, layer=LAYER, seed=SEED)
    torch.testing.assert_close(whole, view)
    with pytest.raises(ValueError, match="first_row"):
        fold_segments(whole, delta, x, OFFSETS, layer=LAYER, seed=SEED, first_row=64)


def test_pieces_of_a_matrix_are_the_matrix() -> None:
    delta, x = problem(300, 150, torch.float32)
    whole, pieces = torch.zeros(2, 4, 1024)
    fold_segments(whole, delta, x, OFFSETS, layer=LAYER, seed=SEED)
    for first, last in pairwise([0, 128, 300]):
        fold_segments(pieces, delta[:, first:last], x, OFFSETS, layer=LAYER, seed=SEED, first_row=first)
    torch.testing.assert_close(whole, pieces, rtol=0, atol=1e-4)


def test_the_core_checks_what_it_is_given() -> None:
    matrix = np.zeros((1, 2, 3), dtype=np.float32)
    keys = {"layer": 1, "seed": 1, "threads": 1}
    with pytest.raises(ArrayError, match="power of two"):
        fold_band(np.zeros((1, 100), dtype=np.float32), matrix, first_row=0, **keys)
    with pytest.raises(ArrayError, match="multiple of 128"):
        fold_band(np.zeros((1, 128), dtype=np.float32), matrix, first_row=1, **keys)
    with pytest.raises(ArrayError, match="segments"):
        fold_band(np.zeros((2, 128), dtype=np.float32), matrix, first_row=0, **keys)


@needs_triton
def test_every_kernel_compiles_for_every_gpu_generation_within_its_bounds() -> None:
    """Matrix instruction, spills, shared memory, instructions in the loop and behind it (see bench/kernels.py)."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernels"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["kernels"]
    found = {(row["kernel"].split(",")[0], row["generation"]) for row in rows}
    assert {(kernel, generation) for kernel in KERNELS for generation in (80, 90, 100)} == found


KERNELS = ["fold_tiles", "add_partials", "delta_rows", "log_probability_rows", "sum_unit_rows", "dot_rows"]
