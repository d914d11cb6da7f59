"""What does the vocabulary head cost without its logits, in time and in memory?

Three ways from hidden states to log-probabilities and the gradient to the hidden states: whole logits through autograd
(the baseline; left out where it does not fit), chunks of tokens through autograd (what TRL and others do), and ours,
`head_pass`, in blocks within `HEAD_BYTES`. The floor is the two products that each of them makes. Ours is checked
against float64 first. Sizes are Qwen2.5-1.5B's at 32k response tokens on a GPU, a small cut of SmolLM2's on a CPU.

    python -m bench.head [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from typing import Any

import torch
from learnalign.kernels.logprob import HeadPass, head_pass
from torch import Tensor

from bench.measure import best, finish
from bench.sketch import peak, reset_peak
from learnalign.gradient.head import HEAD_BYTES

SIZES = {"cuda": (32768, 1536, 151936), "cpu": (1024, 576, 49152), "quick": (64, 64, 1000)}
"""Tokens, width, vocabulary."""
CHUNK = 1024
MEMORY_BAR = 2 << 30
TIME_BAR = 1.15
TOLERANCE = 4.0
"""Allowed error over that of whole logits in float32 autograd, both against float64."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few tokens: checks that it runs")
    quick = parser.parse_args().quick
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check(inputs(*SIZES["quick"], device))
    given = inputs(*SIZES["quick" if quick else device], device)
    ways: dict[str, Callable[[], Any]] = {
        "floor": lambda: floor(given),
        "chunks": lambda: in_chunks(given, CHUNK),
        "ours": lambda: ours(given),
    }
    logits = len(given[0]) * len(given[1])
    if device == "cpu" or 16 * logits < torch.cuda.mem_get_info()[0]:
        ways["whole"] = lambda: in_chunks(given, len(given[0]))
    memory = {name: extra_bytes(run, device) for name, run in ways.items()}
    seconds = best(3, **{name: synchronized(run, device) for name, run in ways.items()})
    print(f"{len(given[0]):,} tokens x {len(given[1]):,} words, {given[0].dtype} on {device}; chunks of {CHUNK} tokens")
    for name in ways:
        ratio = seconds[name] / seconds["floor"]
        print(f"{name:<8}{1e3 * seconds[name]:>10.1f} ms{ratio:>8.2f} x floor{memory[name] / 2**30:>8.2f} GiB")
    met = {"memory": memory["ours"] <= MEMORY_BAR, "time": seconds["ours"] <= TIME_BAR * seconds["chunks"]}
    ratios = {name: round(value / seconds["floor"], 3) for name, value in seconds.items()}
    result = {"device": device, "quick": quick, "over_floor": ratios, "extra_bytes": memory}
    finish("head", {**result, "bars_met": None if quick else met}, "torch")


def inputs(tokens: int, width: int, vocabulary: int, device: str) -> Inputs:
    """Hidden states, head, targets, coefficients; bfloat16 on a GPU."""
    generator = torch.Generator().manual_seed(tokens)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    hidden = torch.randn(tokens, width, generator=generator).to(device, dtype)
    weight = (torch.randn(vocabulary, width, generator=generator) / width**0.5).to(device, dtype)
    targets = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
    return hidden, weight, targets, torch.randn(tokens, generator=generator).to(device)


def floor(given: Inputs) -> None:
    """The two products, chunk by chunk."""
    hidden, weight, _, _ = given
    for some in torch.split(hidden, CHUNK):
        torch.mm(torch.mm(some, weight.T), weight)


def in_chunks(given: Inputs, chunk: int) -> Tensor:
    """Gradient to the hidden states, by autograd over whole logits of `chunk` tokens at a time."""
    hidden, weight, targets, coefficients = given
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    gradients = []
    for first in range(0, len(hidden), chunk):
        some = slice(first, first + chunk)
        h = hidden[some].detach().requires_grad_()
        logits = (h @ weight.T).to(wide)
        log_p = logits.gather(1, targets[some, None]).squeeze(1) - logits.logsumexp(1)
        torch.autograd.backward((log_p * coefficients[some].to(wide)).sum())
        assert h.grad is not None
        gradients.append(h.grad)
    return torch.cat(gradients)


def ours(given: Inputs) -> HeadPass:
    """What the engine does."""
    return head_pass(*given, memory_bytes=HEAD_BYTES)


def check(given: Inputs) -> None:
    """Ours against float64; exits where it is further off than float32 autograd allows."""
    hidden, weight, targets, coefficients = given
    truth = in_chunks((hidden.double(), weight.double(), targets, coefficients), len(hidden))
    plain = in_chunks((hidden, weight, targets, coefficients), len(hidden)).double()
    found = ours(given).hidden_gradient.double()
    error, yardstick = ((x - truth).norm().item() for x in (found, plain))
    if not error <= TOLERANCE * yardstick:
        raise SystemExit(f"bench/head.py: ours is off by {error:.2e}, plain autograd by {yardstick:.2e}: not timed")


def synchronized(run: Callable[[], Any], device: str) -> Callable[[], None]:
    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole


def extra_bytes(run: Callable[[], Any], device: str) -> int:
    """The highest memory of one run beyond what was there before."""
    gc.collect()
    before = reset_peak(device)
    run()
    return peak(device) - before


if __name__ == "__main__":
    main()
