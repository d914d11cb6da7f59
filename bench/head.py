"""What does the vocabulary head cost without its logits, in time and in memory?

From hidden states to log-probabilities and the gradient to the hidden states, three ways: whole logits through
autograd (left out where it does not fit), chunks of 1,024 and of 4,096 tokens through autograd (what TRL and others
do), and ours, `head_pass`, in blocks within what the engine allows (`head_bytes`: 4 GiB on a large GPU) and within
1 GiB, which the bar of 2 GiB is for. And to log-probabilities alone (`log_probabilities`, as for a reference policy)
against whole logits and the same chunks without a gradient. "Products" are the matrix products
that each of them makes; the floor is computed, from their operations and the bytes of what goes in and out over what
the device was seen to do (`bench.ceilings`). Ours is checked against float64 first. Heads are Qwen2.5-0.5B's, 1.5B's
and 7B's at 32k response tokens on a GPU, a small cut of SmolLM2's on a CPU.

    python -m bench.head [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from learnalign.kernels.logprob import HeadPass, head_pass, log_probabilities
from torch import Tensor

from bench.ceilings import Ceilings, best_device, best_on, ceilings, device_name, rounded
from bench.measure import asked_quick, finish
from bench.memory import extra_bytes
from learnalign.gradient.head import head_bytes

SIZES: dict[str, dict[str, tuple[int, int, int]]] = {
    "cuda": {
        "qwen2.5-0.5b": (32768, 896, 151936),
        "qwen2.5-1.5b": (32768, 1536, 151936),
        "qwen2.5-7b": (32768, 3584, 152064),
    },
    "cpu": {"smollm2-135m, cut": (1024, 576, 49152)},
    "quick": {"tiny": (64, 64, 1000)},
}
"""Tokens, width, vocabulary."""
CHUNKS = (1024, 4096)
SMALL_BYTES = 1 << 30
MEMORY_BAR = 2 << 30
TIME_BAR = 1.15
"""Times the best chunked way."""
TOLERANCE = 4.0
"""Allowed error over that of whole logits in float32 autograd, both against float64."""
WHOLE_BYTES = {True: 16, False: 10}
"""About what whole logits take a number, with a gradient and without."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    """Check, time, print."""
    quick = asked_quick(__doc__, "a few tokens: checks that it runs")
    device = best_device()
    check(inputs(*SIZES["quick"]["tiny"], device))
    ceiling = ceilings(device, quick)
    print(f"{device_name(device)}; {ceiling.words()}")
    heads: dict[str, Any] = {}
    for name, size in SIZES["quick" if quick else device].items():
        given = inputs(*size, device)
        print(f"{name}: {size[0]:,} tokens x {size[2]:,} words of width {size[1]:,}, {given[0].dtype}")
        heads[name] = {
            "with_gradient": measure(given, ceiling, device, gradient=True),
            "log_probabilities": measure(given, ceiling, device, gradient=False),
        }
        del given
    met = {
        f"{name}, {kind}": all(found["met"].values()) for name, kinds in heads.items() for kind, found in kinds.items()
    }
    times = {kind: [found[kind]["over_best_chunks"] for found in heads.values()] for kind in next(iter(heads.values()))}
    summary = "; ".join(f"{kind} {max(ratios):.2f} x chunks at worst" for kind, ratios in times.items())
    result = {"device": device_name(device), "quick": quick, "ceilings": ceiling.facts(), "heads": heads}
    finish("head", {**result, "bars_met": None if quick else met, "summary": summary}, "torch", "triton")


def measure(given: Inputs, ceiling: Ceilings, device: str, *, gradient: bool) -> dict[str, Any]:
    """Every way, its time and its memory; the products first."""
    hidden, weight, _, _ = given
    logits = len(hidden) * len(weight)
    chunked = in_chunks if gradient else log_p_in_chunks
    ways: dict[str, Callable[[], Any]] = {
        "products": lambda: products(given, gradient),
        **{f"chunks of {chunk:,}": partial(chunked, given, chunk) for chunk in CHUNKS},
        "ours": partial(ours if gradient else ours_log_p, given, head_bytes(hidden.device)),
        "ours in 1 GiB": partial(ours if gradient else ours_log_p, given, SMALL_BYTES),
    }
    if device == "cpu" or WHOLE_BYTES[gradient] * logits < torch.cuda.mem_get_info()[0]:
        ways["whole"] = partial(chunked, given, len(hidden))
    memory = {name: extra_bytes(run, device) for name, run in ways.items()}
    best = best_on(device, 3, **ways)
    operations = (4.0 if gradient else 2.0) * logits * hidden.shape[1]
    floor = ceiling.floor(operations, weight.nbytes + hidden.nbytes * (2 if gradient else 1))
    print(f"  {'with the gradient' if gradient else 'log-probabilities alone'}: floor {1e3 * floor:.2f} ms")
    for name in ways:
        ratio, gib = best[name] / floor, memory[name] / 2**30
        print(f"  {name:<18}{1e3 * best[name]:>10.2f} ms{ratio:>8.2f} x floor{gib:>8.2f} GiB", flush=True)
    ratio = best["ours"] / min(best[name] for name in ways if name.startswith("chunks"))
    return {
        "floor_ms": round(1e3 * floor, 3),
        "ms": rounded(best),
        "extra_bytes": memory,
        "over_floor": round(best["ours"] / floor, 3),
        "over_best_chunks": round(ratio, 3),
        "met": {"memory": memory["ours in 1 GiB"] <= MEMORY_BAR, "time": ratio <= TIME_BAR},
    }


def inputs(tokens: int, width: int, vocabulary: int, device: str) -> Inputs:
    """Hidden states, head, targets, coefficients; bfloat16 on a GPU."""
    generator = torch.Generator(device).manual_seed(tokens)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    targets = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    return (
        normal(tokens, width).to(dtype),
        (normal(vocabulary, width) / width**0.5).to(dtype),
        targets,
        normal(tokens),
    )


def products(given: Inputs, gradient: bool) -> None:
    """The product to the logits, and with a gradient the one back, chunk by chunk."""
    hidden, weight, _, _ = given
    for some in torch.split(hidden, CHUNKS[0]):
        logits = torch.mm(some, weight.T)
        if gradient:
            torch.mm(logits, weight)


def log_p_of(logits: Tensor, targets: Tensor) -> Tensor:
    """log p [T] from logits [T, V]."""
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)


def wide(hidden: Tensor) -> torch.dtype:
    """What logits are widened to."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def in_chunks(given: Inputs, chunk: int) -> Tensor:
    """Gradient to the hidden states, by autograd over whole logits of `chunk` tokens at a time."""
    hidden, weight, targets, coefficients = given
    gradients = []
    for first in range(0, len(hidden), chunk):
        some = slice(first, first + chunk)
        h = hidden[some].detach().requires_grad_()
        log_p = log_p_of((h @ weight.T).to(wide(hidden)), targets[some])
        torch.autograd.backward((log_p * coefficients[some].to(wide(hidden))).sum())
        assert h.grad is not None
        gradients.append(h.grad)
    return torch.cat(gradients)


def log_p_in_chunks(given: Inputs, chunk: int) -> Tensor:
    """Log-probabilities [T] from whole logits of `chunk` tokens at a time."""
    hidden, weight, targets, _ = given
    found = []
    for first in range(0, len(hidden), chunk):
        some = slice(first, first + chunk)
        found.append(log_p_of((hidden[some] @ weight.T).to(wide(hidden)), targets[some]))
    return torch.cat(found)


def ours(given: Inputs, memory_bytes: int) -> HeadPass:
    """What the engine does."""
    return head_pass(*given, memory_bytes=memory_bytes)


def ours_log_p(given: Inputs, memory_bytes: int) -> Tensor:
    """What the engine does for a reference policy."""
    found: Tensor = log_probabilities(*given[:3], memory_bytes=memory_bytes)
    return found


def check(given: Inputs) -> None:
    """Ours against float64; exits where it is further off than float32 autograd allows."""
    hidden, weight, targets, coefficients = given
    exact = (hidden.double(), weight.double(), targets, coefficients)
    for name, plain, found in (
        ("gradient", in_chunks, ours(given, SMALL_BYTES).hidden_gradient),
        ("log-probability", log_p_in_chunks, ours_log_p(given, SMALL_BYTES)),
    ):
        truth, eager = (plain(some, len(hidden)).double() for some in (exact, given))
        error, yardstick = ((x - truth).norm().item() for x in (found.double(), eager))
        if not error <= TOLERANCE * yardstick:
            raise SystemExit(
                f"bench/head.py: our {name} is off by {error:.2e}, plain torch's by {yardstick:.2e}: not timed"
            )


if __name__ == "__main__":
    main()
