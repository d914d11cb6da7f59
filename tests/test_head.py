"""The vocabulary head in blocks: found by probing, cut anywhere, with or without a KL term, or kept whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gradient_oracle import ARCHITECTURES, SEED, D, exact_sketch, random_groups, tiny
from torch import nn

from learnalign.config import SketchConfig
from learnalign.errors import PolicyError
from learnalign.gradient import Group, Sketcher, weighted
from learnalign.gradient.batching import pack
from learnalign.gradient.hooks import segments_within


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_architecture_runs_its_head_in_blocks(kind: str) -> None:
    model = tiny(kind)
    head = Sketcher(model, SketchConfig(dimension=D)).head
    assert not head.whole
    assert head.shape is not None
    assert head.shape.scale == pytest.approx(1.0, rel=1e-12)
    assert head.shape.cap == getattr(model.config, "final_logit_softcapping", None)


@pytest.mark.parametrize("scale", [0.0625, 3.0])
def test_a_scale_is_found_by_probing(scale: float) -> None:
    """Cohere multiplies its logits, Granite divides them: what counts is what the forward pass does."""
    model = tiny()
    run = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        output.logits = output.logits * scale
        return output

    model.forward = scaled
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=False), temperature=0.7)
    assert sketcher.head.shape is not None
    assert sketcher.head.shape.scale == pytest.approx(scale, rel=1e-12)
    group = random_groups(1)[0]
    truth = exact_sketch(model, group, temperature=0.7)
    np.testing.assert_allclose(sketcher.sketch([group])[0], truth, rtol=0, atol=1e-7 * np.abs(truth).max())


def _cubed(model: Any) -> str:
    run = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        output.logits = output.logits + 1e-3 * output.logits**3
        return output

    model.forward = forward
    return "neither a scale nor a soft cap"


def _biased(model: Any) -> str:
    model.lm_head.bias = nn.Parameter(torch.linspace(-1, 1, model.lm_head.out_features, dtype=torch.float64))
    return "has a bias"


def _of_a_class_of_its_own(model: Any) -> str:
    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    model.lm_head.__class__ = Watched
    return "Watched"


@pytest.mark.parametrize("change", [_cubed, _biased, _of_a_class_of_its_own])
def test_other_heads_stay_whole_say_why_and_are_exact(change: Any) -> None:
    model = tiny()
    why = change(model)
    sketcher = Sketcher(model, SketchConfig(dimension=D, seed=SEED, share_prompts=False))
    assert why in sketcher.head.whole
    assert sketcher.head.shape is None
    group = random_groups(1)[0]
    truth = exact_sketch(model, group)
    np.testing.assert_allclose(sketcher.sketch([group])[0], truth, rtol=0, atol=1e-7 * np.abs(truth).max())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("rank", [None, 5])
def test_blocks_may_cut_through_groups(kind: str, rank: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, groups = tiny(kind), random_groups(4, seed=3)
    whole = Sketcher(model, SketchConfig(dimension=D, seed=SEED, rank=rank or 0)).sketch(groups)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for tokens in (1, 3):
        monkeypatch.setattr("learnalign.gradient.head.HEAD_BYTES", tokens * vocabulary * 8)
        parts = Sketcher(model, SketchConfig(dimension=D, seed=SEED, rank=rank or 0)).sketch(groups)
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12 * np.abs(whole).max())


def test_segments_within_meet_their_definition() -> None:
    offsets = [0, 0, 4, 4, 5, 11, 11]
    for first in range(11):
        for last in range(first + 1, 12):
            rows, inside = segments_within(offsets, first, last)
            for segment in range(6):
                tokens = set(range(offsets[segment], offsets[segment + 1])) & set(range(first, last))
                if rows.start <= segment < rows.stop:
                    k = segment - rows.start
                    assert tokens == set(range(first + inside[k], first + inside[k + 1]))
                else:
                    assert not tokens


class TestKLTerm:
    """Against autograd of GRPO's own objective: advantage times ratio, less beta times the k3 estimate."""

    BETA = 0.3

    @staticmethod
    def pair(kind: str, biased: bool) -> tuple[Any, Any]:
        model = tiny(kind)
        reference = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(9)
        for parameter in reference.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if biased:
            _biased(model)
            _biased(reference)
        return model, reference

    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize(("kind", "biased"), [("llama", False), ("gemma2", False), ("llama", True)])
    def test_sketch_is_the_fold_of_the_objectives_gradient(self, kind: str, biased: bool, share: bool) -> None:
        model, reference = self.pair(kind, biased)
        group = Group([1, 2, 3], [[4, 5], [6, 7, 8, 9], [3]], [1.0, 0.0, 0.5])
        assert np.isclose(np.mean(group.rewards), group.rewards[2]), "a response without advantage is pulled too"
        sketcher = Sketcher(
            model, SketchConfig(dimension=D, seed=SEED, kl_beta=self.BETA, share_prompts=share), reference=reference
        )
        assert bool(sketcher.head.whole) == biased
        truth = exact_sketch(model, group, coefficients=self.coefficients(model, reference, group))
        np.testing.assert_allclose(sketcher.sketch([group])[0], truth, rtol=0, atol=1e-6 * np.abs(truth).max())
        without = Sketcher(model, SketchConfig(dimension=D, seed=SEED)).sketch([group])[0]
        assert np.linalg.norm(without - truth) > 1e-2 * np.linalg.norm(truth)

    def coefficients(self, model: Any, reference: Any, group: Group) -> list[np.ndarray]:
        """d objective / d log pi of every token, by autograd."""
        a = (np.array(group.rewards) - 0.5) / (np.std(group.rewards) + 1e-4)
        result = []
        for response, advantage in zip(group.responses, a, strict=True):
            ids = torch.tensor([[*group.prompt, *response]])

            def log_p(policy: Any, ids: torch.Tensor = ids, count: int = len(response)) -> torch.Tensor:
                logits = policy(ids).logits[0, -count - 1 : -1].double()
                return logits.log_softmax(-1).gather(1, ids[0, -count:, None]).squeeze(1).detach()

            own, other = log_p(model).requires_grad_(), log_p(reference)
            difference = other - own
            divergence = difference.exp() - difference - 1
            objective = (advantage * (own - own.detach()).exp() - self.BETA * divergence).mean() / len(a)
            objective.backward()
            result.append(own.grad.numpy())
        return result

    def test_the_policy_itself_as_reference_changes_nothing(self) -> None:
        model, groups = tiny(), random_groups(3)
        plain = Sketcher(model, SketchConfig(dimension=D, seed=SEED)).sketch(groups)
        pulled = Sketcher(
            model, SketchConfig(dimension=D, seed=SEED, kl_beta=1.0), reference=copy.deepcopy(model)
        ).sketch(groups)
        np.testing.assert_allclose(pulled, plain, rtol=0, atol=1e-12 * np.abs(plain).max())

    def test_equal_rewards_give_zero_all_the_same(self) -> None:
        group = Group([1, 2], [[3, 4], [5]], [1.0, 1.0])
        assert not weighted(group, kl_beta=0.1).responses

    def test_half_of_it_is_refused(self) -> None:
        with pytest.raises(PolicyError, match="kl_beta"):
            Sketcher(tiny(), reference=tiny())
        with pytest.raises(PolicyError, match="no reference"):
            Sketcher(tiny(), SketchConfig(kl_beta=0.1))


def test_a_reference_with_another_vocabulary_is_refused() -> None:
    reference = tiny()
    reference.lm_head = nn.Linear(32, 41, bias=False)
    with pytest.raises(PolicyError, match="vocabulary of 37, found 41"):
        Sketcher(tiny(), SketchConfig(kl_beta=0.1), reference=reference)


def test_log_probabilities_are_those_of_separate_sequences() -> None:
    model = tiny()
    sketcher = Sketcher(model, SketchConfig(dimension=D), temperature=0.5)
    group = Group([1, 2, 3], [[4, 5], [6, 7, 8]], [1.0, 0.0])
    batch = pack([weighted(group)], 2)
    rows = []
    for response in group.responses:
        logits = model(torch.tensor([[*group.prompt, *response]])).logits[0, 2:-1] / 0.5
        rows.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).squeeze(1))
    found = sketcher.head.log_probabilities(batch)
    torch.testing.assert_close(found, torch.cat(rows).to(found.dtype), rtol=0, atol=1e-6)
