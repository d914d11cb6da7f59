"""The vocabulary head without logits in memory: log-probabilities, both gradients, and the memory bound."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest
import torch
from learnalign.kernels.logprob import (
    KLTerm,
    LogitShape,
    blocks,
    head_pass,
    head_products,
    log_probabilities,
    rows_to_delta,
)
from learnalign.kernels.precision import plain_float32
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton (pip install triton)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # conftest turns the interpreter on where there is no GPU

from learnalign.kernels import logprob_triton  # noqa: E402  (needs Triton)

SHAPES = [LogitShape(), LogitShape(scale=0.25, cap=3.0, temperature=0.7), LogitShape(scale=2.0, temperature=0.5)]
TOLERANCE = 2.0
"""A float32 path's error may be this many times that of eager float32 torch on the same inputs, plus FLOOR."""
FLOOR = 2e-6
"""Absolute, for numbers near one: some roundings of exp and log, whose implementations differ."""
HALF_STEP = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
"""Relative rounding of a stored delta; the interpreter truncates to bfloat16 where a GPU rounds."""


def problem(tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    return (
        torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype),
        torch.randint(vocabulary, (tokens,), generator=generator),
        torch.randn(tokens, generator=generator, dtype=torch.float64),
    )


def by_autograd(
    hidden: Tensor, weight: Tensor, targets: Tensor, coefficients: Tensor, shape: LogitShape
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities and both gradients, the way one would write them down."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logits = shape.scale * hidden @ weight.T
    if shape.cap is not None:
        logits = shape.cap * torch.tanh(logits / shape.cap)
    log_p = torch.log_softmax(logits / shape.temperature, 1).gather(1, targets[:, None]).squeeze(1)
    (log_p * coefficients.to(log_p.dtype)).sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is not None
    return log_p.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(7, 300), (1, 1), (5, 129), (0, 10)])
def test_one_pass_gives_what_autograd_gives(shape: LogitShape, tokens: int, vocabulary: int) -> None:
    hidden, weight, targets, coefficients = problem(tokens, 24, vocabulary, torch.float64)
    truth = by_autograd(hidden, weight, targets, coefficients, shape)
    head = torch.zeros_like(weight)

    def consume(delta: Tensor, first: int) -> None:
        assert len(delta) <= 3
        head.addmm_(delta.T, hidden[first : first + len(delta)])

    memory = 3 * vocabulary * 8
    found = head_pass(hidden, weight, targets, coefficients, memory_bytes=memory, shape=shape, consume=consume)
    for a, b in zip((found.log_probabilities, found.hidden_gradient, head), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_inputs_are_summed_in_float32(
    shape: LogitShape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 on the same rounded inputs; the yardstick is autograd in float32 on them."""
    monkeypatch.setattr("learnalign.kernels.logprob.WIDENED_ENTRIES", 24 * 50)
    hidden, weight, targets, coefficients = problem(7, 24, 300, dtype)
    truth = by_autograd(hidden.double(), weight.double(), targets, coefficients, shape)
    eager = by_autograd(hidden.float(), weight.float(), targets, coefficients, shape)
    found = head_pass(hidden, weight, targets, coefficients, memory_bytes=4 * 300 * 4, shape=shape)
    assert found.log_probabilities.dtype == found.hidden_gradient.dtype == torch.float32
    for a, b, c in zip((found.log_probabilities, found.hidden_gradient), eager, truth, strict=False):
        assert (a - c).abs().max() <= TOLERANCE * (b - c).abs().max() + FLOOR * max(1.0, c.abs().max().item())


def test_the_memory_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks shrink with the bound, the results stay, and one block's logits are gone before the next one's come."""
    arguments = problem(20, 8, 100, torch.float32)
    whole = head_pass(*arguments, memory_bytes=1 << 20)
    made: list[weakref.ref[Tensor]] = []
    sizes: list[int] = []

    def watched(hidden: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
        assert all(old() is None for old in made)
        products = head_products(hidden, weight, wide)
        made.append(weakref.ref(products))
        sizes.append(products.numel() * products.itemsize)
        return products

    monkeypatch.setattr("learnalign.kernels.logprob.head_products", watched)
    for tokens in (1, 7, 20):
        made.clear()
        sizes.clear()
        part = head_pass(*arguments, memory_bytes=tokens * 100 * 4 + 399)
        assert max(sizes) == tokens * 100 * 4
        assert len(sizes) == -(-20 // tokens)
        torch.testing.assert_close(part.hidden_gradient, whole.hidden_gradient)
    with pytest.raises(ValueError, match="400 bytes"):
        head_pass(*arguments, memory_bytes=399)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_log_probabilities(shape: LogitShape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged against the part of a row that a program takes at a time."""
    monkeypatch.setattr(logprob_triton, "ROW_BLOCK", 64)
    hidden, weight, targets, coefficients = problem(7, 40, 200, dtype)
    truth = by_autograd(hidden.double(), weight.double(), targets, coefficients, shape)[0]
    eager = by_autograd(hidden.float(), weight.float(), targets, coefficients, shape)[0]
    products = head_products(hidden, weight, torch.float32).to(DEVICE)
    found = logprob_triton.rows_to_log_probabilities_triton(products, targets.to(DEVICE), shape).cpu()
    assert (found - truth).abs().max() <= TOLERANCE * (eager - truth).abs().max() + FLOOR * truth.abs().max()
    plain = log_probabilities(hidden, weight, targets, memory_bytes=3 * 200 * 8, shape=shape)
    assert (plain - truth).abs().max() <= TOLERANCE * (eager - truth).abs().max() + FLOOR * truth.abs().max()


@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_deltas(shape: LogitShape, dtype: torch.dtype, pulled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob_triton, "ROW_BLOCK", 128)
    hidden, weight, targets, coefficients = problem(5, 24, 300, torch.float64)
    products = hidden @ weight.T
    _, log_truth = rows_to_delta(products.float().double(), targets, coefficients, shape)
    kl = KLTerm(torch.linspace(0, 1, 5).double(), log_truth + torch.linspace(-1, 1, 5)) if pulled else None
    truth, _ = rows_to_delta(products.float().double(), targets, coefficients, shape, kl)
    on_device = kl and KLTerm(kl.weights.float().to(DEVICE), kl.reference.float().to(DEVICE))
    delta, log_p = logprob_triton.rows_to_delta_triton(
        *(products.float().to(DEVICE), targets.to(DEVICE), coefficients.float().to(DEVICE), shape, on_device),
        dtype=dtype,
    )
    assert delta.dtype == dtype
    scale = truth.abs() if dtype != torch.float16 else truth.abs().clamp_min(2.0**-13)  # halves below are subnormal
    size = coefficients.abs() + (0 if kl is None else 3 * kl.weights * log_truth.abs())  # e^1 and the rounding of log p
    allowed = HALF_STEP[dtype] * scale + 5 * FLOOR * (1 + size[:, None])
    assert ((delta.cpu().double() - truth).abs() <= allowed).all()
    assert (log_p.cpu() - log_truth).abs().max() <= FLOOR * log_truth.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_target_outside_of_the_vocabulary_reads_nothing_and_gives_nan(shape: LogitShape) -> None:
    """Of that token alone; the memory around the rows holds numbers that would look like logits."""
    hidden, weight, targets, coefficients = problem(5, 24, 300, torch.float64)
    around = torch.full((7, 300), 2.0, device=DEVICE)
    around[1:6] = (hidden @ weight.T).float()
    wrong = targets.clone()
    wrong[1], wrong[3] = 300, -1
    for pull in (None, KLTerm(torch.ones(5, device=DEVICE), torch.zeros(5, device=DEVICE))):
        rows, c = around[1:6].clone(), coefficients.float().to(DEVICE)
        delta, log_p = logprob_triton.rows_to_delta_triton(rows, wrong.to(DEVICE), c, shape, pull, dtype=torch.float32)
        alone = logprob_triton.rows_to_log_probabilities_triton(around[1:6], wrong.to(DEVICE), shape)
        assert alone.isnan().tolist() == log_p.isnan().tolist() == [False, True, False, True, False]
        assert delta.isnan().all(1).tolist() == delta.isnan().any(1).tolist() == log_p.isnan().tolist()


def test_rows_without_a_finite_sum_give_nan_not_a_number() -> None:
    products = torch.zeros(3, 10, device=DEVICE)
    products[0, 4], products[1, 4], products[2, :9] = float("nan"), float("inf"), -float("inf")
    targets = torch.tensor([2, 2, 9], device=DEVICE)
    found = logprob_triton.rows_to_log_probabilities_triton(products, targets, LogitShape()).cpu()
    assert found.isnan().tolist() == [True, True, False]
    assert found[2] == 0


def test_blocks_end_at_borders_where_that_costs_little() -> None:
    def ends(*given: object) -> list[int]:
        return [part.stop for part in blocks(*given)]  # type: ignore[arg-type]

    assert ends(10, 4) == [4, 8, 10]
    assert ends(10, 4, [0, 3, 7, 10]) == [3, 7, 10]
    assert ends(10, 4, [0, 1, 10]) == [4, 8, 10], "a border right behind the beginning would halve the block"
    assert ends(10, 20, [0, 3, 10]) == [10]
    assert ends(0, 4, [0]) == []
    for most in range(1, 12):
        parts = blocks(11, most, [0, 2, 2, 5, 11])
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(11))
        assert max(part.stop - part.start for part in parts) <= most


def test_products_do_not_follow_the_programs_precision_and_leave_it() -> None:
    """By whichever of torch's names it was set: each in a child of its own, for torch remembers by which."""
    program = """
import os, torch
from learnalign.kernels import logprob
m = torch.backends.cuda.matmul
def read(what):
    try:
        return what()
    except RuntimeError:
        return "mixed"
def state():
    return [read(lambda: getattr(m, "fp32_precision", None)), read(lambda: m.allow_tf32),
            read(torch.get_float32_matmul_precision)]
seen = []
def noted(*given):
    seen.append(state())
    return products(*given)
products, logprob.head_products = logprob.head_products, noted
def try_one(ask):
    exec(ask)
    before = state()
    h, w, y = torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 1])
    logprob.head_pass(h, w, y, torch.ones(2), memory_bytes=1 << 20)
    logprob.log_probabilities(h, w, y, memory_bytes=1 << 20)
    assert len(seen) == 2 and all(s[0] != "tf32" and s[1] is False for s in seen), (ask, seen)
    assert state() == before, (ask, before, state())
torch.set_num_threads(1)
asks = ["", "torch.set_float32_matmul_precision('high')", "torch.set_float32_matmul_precision('medium')",
        "m.allow_tf32 = True"]
if hasattr(m, "fp32_precision"):
    asks += ["m.fp32_precision = 'tf32'", "torch.backends.fp32_precision = 'tf32'"]
for ask in asks:
    if not os.fork():
        try_one(ask)
        os._exit(0)
    assert os.wait()[1] == 0, ask
"""
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=300)


def test_the_precision_comes_back_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), plain_float32():
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_triton_takes_no_tokens() -> None:
    hidden, weight, targets, coefficients = problem(0, 8, 10, torch.float32)
    assert len(logprob_triton.rows_to_log_probabilities_triton(hidden @ weight.T, targets, LogitShape())) == 0
    delta, _ = logprob_triton.rows_to_delta_triton(
        hidden @ weight.T, targets, coefficients.float(), LogitShape(), dtype=torch.float32
    )
    assert delta.shape == (0, 10)


@pytest.mark.parametrize("wrong", ["width", "dtype", "targets"])
def test_shapes_that_do_not_fit_are_refused(wrong: str) -> None:
    hidden, weight, targets, coefficients = problem(3, 8, 10, torch.float32)
    if wrong == "width":
        weight = weight[:, :7]
    elif wrong == "dtype":
        weight = weight.double()
    else:
        targets = targets[:2]
    with pytest.raises(ValueError, match=r"hidden|targets"):
        head_pass(hidden, weight, targets, coefficients, memory_bytes=1 << 20)
