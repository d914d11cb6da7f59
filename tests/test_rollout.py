"""Draws are reproducible and follow the policy's distribution; responses end where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learnalign.config import PolicyConfig, RolloutConfig
from learnalign.demo.run import POLICY
from learnalign.errors import PolicyError
from learnalign.policy import Policy, load_policy
from learnalign.rollout.engine import Response, Task, plan
from learnalign.rollout.sampling import Sampler, uniforms
from learnalign.rollout.transformers import LocalEngine


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(PolicyConfig(model=str(POLICY)))


def sample(policy: Policy, asked: list[Task], config: RolloutConfig) -> list[Response]:
    return LocalEngine(policy, config).sample(asked)


def tasks(policy: Policy, problems: list[str], count: int = 4) -> list[Task]:
    return [Task(f"id-{text}", policy.encode(text, None), count) for text in problems]


PROBLEMS = ["12+7", "sort 3241", "reverse 4726", "99 mod 4", "31*7", "12+3+4"]
CONFIG = RolloutConfig(responses=4, max_new_tokens=12)


def test_uniforms_depend_on_seed_prompt_and_response_alone() -> None:
    base = uniforms(1, "a", 2, 8)
    np.testing.assert_array_equal(base, uniforms(1, "a", 2, 12)[:8])
    for other in (uniforms(2, "a", 2, 8), uniforms(1, "b", 2, 8), uniforms(1, "a", 3, 8)):
        assert not np.isin(other, base).any()
    many = np.concatenate([uniforms(0, str(k), 0, 10) for k in range(2000)])
    assert abs(many.mean() - 0.5) < 5 / np.sqrt(12 * many.size)
    assert many.min() >= 0
    assert many.max() < 1


def test_sampler_draws_from_the_distribution_at_the_temperature() -> None:
    """Frequencies of 20,000 draws meet the softmax within five standard errors."""
    logits = torch.tensor([0.3, -1.0, 2.0, -float("inf"), 0.9])
    count, temperature = 20_000, 0.8
    draws = [np.array([u]) for u in np.random.default_rng(0).random(count)]
    sampler = Sampler(draws, temperature)
    chosen = sampler(torch.zeros(count, 1), logits.expand(count, -1)).argmax(-1)
    p = torch.softmax(logits.double() / temperature, -1)
    share = torch.bincount(chosen, minlength=5) / count
    assert share[3] == 0
    assert ((share - p).abs() <= 5 * (p * (1 - p) / count).sqrt()).all()
    torch.testing.assert_close(sampler.log_probabilities()[:, 0].double(), p[chosen].log(), rtol=1e-5, atol=1e-6)


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits = torch.tensor([[-float("inf"), 0.0, 0.0, -float("inf")]]).expand(2, -1)
    chosen = Sampler([np.array([0.0]), np.array([np.nextafter(1.0, 0.0)])], 1.0)(torch.zeros(2, 1), logits)
    assert chosen.argmax(-1).tolist() == [1, 2]


def test_responses_do_not_depend_on_their_batch(policy: Policy) -> None:
    together = sample(policy, tasks(policy, PROBLEMS), CONFIG)
    alone = [r for task in tasks(policy, PROBLEMS) for r in sample(policy, [task], CONFIG)]
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, rtol=0, atol=1e-4)


def test_log_probabilities_are_those_of_a_plain_forward_pass(policy: Policy) -> None:
    """Left padding, cache and sampler change nothing: the same numbers come from one pass over prompt + response."""
    for r in sample(policy, tasks(policy, PROBLEMS, 2), RolloutConfig(responses=2, max_new_tokens=12, temperature=0.7)):
        ids = torch.tensor([[*r.prompt_tokens, *r.tokens]])
        with torch.inference_mode():
            logits = policy.model(input_ids=ids).logits[0, len(r.prompt_tokens) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(1, torch.tensor(r.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(r.log_probabilities, expected, rtol=0, atol=1e-4)


def test_responses_end_with_the_end_token_or_at_the_limit(policy: Policy) -> None:
    for r in sample(policy, tasks(policy, PROBLEMS), RolloutConfig(responses=4, max_new_tokens=3)):
        ends = [token in policy.eos_ids for token in r.tokens]
        assert len(r.tokens) == len(r.log_probabilities) <= 3
        assert not any(ends[:-1])
        assert (r.finish == "stop") == ends[-1]
        assert r.finish == "stop" or len(r.tokens) == 3


def test_a_policy_that_gives_no_numbers_is_refused() -> None:
    broken = load_policy(PolicyConfig(model=str(POLICY)))
    with torch.no_grad():
        broken.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match=r"'id-12\+7' are not finite"):
        sample(broken, tasks(broken, ["12+7"]), CONFIG)


def test_a_later_response_is_the_same_alone(policy: Policy) -> None:
    """Response 3 of a prompt does not depend on whether 0 to 2 are sampled in the same call, or how many follow."""
    together = sample(policy, tasks(policy, PROBLEMS, 8), CONFIG)
    later = sample(policy, [task._replace(first=3, responses=2) for task in tasks(policy, PROBLEMS)], CONFIG)
    expected = [r for r in together if r.number in (3, 4)]
    assert [(r.prompt_id, r.number, r.tokens) for r in later] == [(r.prompt_id, r.number, r.tokens) for r in expected]


def test_a_prompt_is_computed_once_for_its_responses(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass has a row a prompt, and prompts of one token, which have nothing to share, work too."""
    seen = []
    forward = policy.model.forward
    monkeypatch.setattr(policy.model, "forward", lambda **k: seen.append(k["input_ids"].shape) or forward(**k))
    sample(policy, tasks(policy, PROBLEMS), CONFIG)
    longest = max(len(task.tokens) for task in tasks(policy, PROBLEMS))
    assert seen[0] == (len(PROBLEMS), longest - 1)
    assert set(seen[1:]) == {(4 * len(PROBLEMS), 1)}
    short = sample(policy, [Task("a", [5], 3), Task("b", [6], 2)], CONFIG)
    assert [(r.prompt_id, r.number) for r in short] == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]


def test_plan_is_a_partition_by_length() -> None:
    lengths = [5, 9, 9, 2, 7, 7, 7]
    batches = plan(lengths, [4, 4, 0, 4, 30, 2, 4], sequences=10)
    assert batches == [[1], [4], [5, 6, 0], [3]], "longest first, 10 sequences at most, a prompt never split"
    later = [i for batch in plan(lengths, [0, 1, 0, 1, 1, 0, 1], sequences=3) for i in batch]
    assert later == [i for batch in batches for i in batch if i in later], "the order does not depend on who is left"
