"""Launches every Triton kernel on small ragged shapes: for compute-sanitizer on a GPU, interpreted elsewhere.

Checks that results are finite, nothing more: what they must be is tested in test_*_kernels.py and test_logprob.py.
"""

from __future__ import annotations

import os

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported

from learnalign.kernels import fold_triton, logprob_triton, score_triton  # noqa: E402  (after the interpreter is set)
from learnalign.kernels.logprob import KLTerm, LogitShape  # noqa: E402


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def launch_fold(dtype: torch.dtype) -> None:
    """Segments of no, one and many tokens, tiles cut at every side; rows that a descriptor can and cannot take."""
    for columns in (131, 136):
        phi = torch.zeros(3, 8192, device=DEVICE)
        places = (normal(600, 304, dtype=dtype), normal(600, columns, dtype=dtype), [0, 0, 1, 600])
        fold_triton.fold_triton(phi, *places, layer=3, seed=5, first_row=128)
        finite(f"fold, {columns} columns", phi)


def launch_head(dtype: torch.dtype) -> None:
    """Both kernels, with and without a cap and a KL term; also with targets outside of the vocabulary."""
    targets = torch.tensor([0, 500, 4, 199, 7], device=DEVICE)
    for shape, kl in (
        (LogitShape(), None),
        (LogitShape(scale=0.5, cap=3.0, temperature=0.7), KLTerm(normal(5), normal(5))),
    ):
        delta, log_p = logprob_triton.rows_to_delta_triton(normal(5, 501), targets, normal(5), shape, kl, dtype=dtype)
        finite("delta_rows", delta, log_p)
        finite("log_probability_rows", logprob_triton.rows_to_log_probabilities_triton(normal(5, 501), targets, shape))
        outside = torch.tensor([0, 501, 4, -1, 7], device=DEVICE)
        found = logprob_triton.rows_to_log_probabilities_triton(normal(5, 501), outside, shape)
        finite("log_probability_rows, targets outside", found[[0, 2, 4]])


def launch_score() -> None:
    """Ragged blocks of rows whose length is no power of two."""
    rows = (40 * normal(37, 200)).clamp(-127, 127).to(torch.int8)
    finite("sum_unit_rows", *score_triton.norms_and_sum(rows, normal(37).abs()))
    finite("dot_rows", score_triton.dots(rows, normal(200)))


def finite(name: str, *results: torch.Tensor) -> None:
    if not all(result.isfinite().all() for result in results):
        raise SystemExit(f"{name}: a result is not finite")
    print(f"launched: {name}", flush=True)


def main() -> None:
    """All of them, in the types that policies have."""
    for dtype in (torch.bfloat16, torch.float32):
        launch_fold(dtype)
        launch_head(dtype)
    launch_score()


if __name__ == "__main__":
    main()
