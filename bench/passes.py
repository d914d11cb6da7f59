"""Where does the time of sketching go, from prompts in to sketches out, and what memory does it take?

The sketcher's whole loop over random groups (batches made, packed, passed, copied back), by the clock: prompts a second
and the peak of memory above the weights. Then the same once more under torch's profiler: on a GPU, the share of the
clock in which nothing ran on it ("waiting"), and the shares of the fold's kernels, of the vocabulary head, of
attention, of other matrix products and of the rest. Kernels are told apart by name; the head's are those in its part
of the pass. On a CPU, which never waits so, there is no split.

    python -m bench.passes [--quick] [--shape NAME] [--groups N] [--response-tokens A B] [--rank K]

Weights are random. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from learnalign.kernels.logprob import head_pass
from torch.profiler import ProfilerActivity, profile, record_function

from bench.ceilings import best_device, device_name
from bench.measure import finish
from bench.memory import extra_bytes
from bench.shapes import SHAPES, random_groups, random_model
from bench.sketch_ours import ours, sketcher_of

HEAD = "vocabulary head"
KINDS = {
    "fold": r"fold_tiles|add_partials",
    "attention": r"flash|fmha|attention|sdpa|softmax",
    "products": r"gemm|gemv|cutlass|nvjet|xmma|cublas",
}
"""How kernels are named, the first that fits."""
Span = tuple[str, float, float]
"""Name, begin and end."""


def main() -> None:
    """Time, profile, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two layers, few words: checks that it runs")
    parser.add_argument("--shape", choices=SHAPES, help="default: smollm2-135m on a CPU, qwen2.5-1.5b on a GPU")
    parser.add_argument("--groups", type=int, help="default: 1 on a CPU, 32 on a GPU")
    parser.add_argument("--response-tokens", type=int, nargs=2, default=(60, 120), metavar=("A", "B"))
    parser.add_argument("--rank", type=int, default=0, help="0: the exact fold")
    asked = parser.parse_args()
    device = best_device()
    shape = asked.shape or ("qwen2.5-1.5b" if device == "cuda" else "smollm2-135m")
    model = random_model(shape, device, asked.quick)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    sketcher = sketcher_of(model, asked.rank)
    groups = random_groups(model, asked.groups or (32 if device == "cuda" else 1), asked.response_tokens)

    def run() -> None:
        ours(sketcher, groups)

    extra = extra_bytes(run, device)
    seconds = min(clock(run, device) for _ in range(1 if asked.quick else 3))
    shares = profiled(run) if device == "cuda" else {}
    result = {
        "shape": shape,
        "device": device_name(device),
        "quick": asked.quick,
        "rank": asked.rank,
        "groups": len(groups),
        "prompts_per_second": round(len(groups) / seconds, 3),
        "weights_gib": round(weights / 2**30, 2),
        "peak_gib_above": round(extra / 2**30, 2),
        "shares": {name: round(share, 4) for name, share in shares.items()},
    }
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "no split on a CPU"
    summary = f"{shape}: {len(groups) / seconds:.2f} prompts/s, {extra / 2**30:.1f} GiB above the weights; {words}"
    print(summary)
    finish("passes", {**result, "summary": summary}, "torch", "triton", "transformers")


def clock(run: Any, device: str) -> float:
    """Seconds from the call to the last sketch in hand."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def profiled(run: Any) -> dict[str, float]:
    """Shares of the clock, of one run under the profiler."""
    with marked_head(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        whole = 1e6 * (time.perf_counter() - begin)
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type.name == "CUDA"
    ]
    kernels = [span for span in spans if span[0] != HEAD]
    return split(kernels, [span for span in spans if span[0] == HEAD], whole)


@contextmanager
def marked_head() -> Iterator[None]:
    """The engine's pass over the head, with a name in the profile."""

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(HEAD):
            return head_pass(*args, **kwargs)

    with patch("learnalign.gradient.sketcher.head_pass", marked):
        yield


def split(kernels: Sequence[Span], heads: Sequence[Span], whole: float) -> dict[str, float]:
    """Shares of `whole`: of every kind of kernel, of what else ran, and of when nothing did."""
    totals = dict.fromkeys(["fold", "head", "attention", "products", "rest"], 0.0)
    for name, begin, end in kernels:
        kind = next((kind for kind, names in KINDS.items() if re.search(names, name, re.IGNORECASE)), "rest")
        if kind != "fold" and any(first <= begin < last for _, first, last in heads):
            kind = "head"
        totals[kind] += end - begin
    busy, reached = 0.0, float("-inf")
    for _, begin, end in sorted(kernels, key=lambda span: span[1]):
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return {**{kind: total / whole for kind, total in totals.items()}, "waiting": 1.0 - busy / whole}


if __name__ == "__main__":
    main()
