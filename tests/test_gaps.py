"""Recorded log-probabilities against the policy's own: right setups pass, other policies do not, silence is said."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from completions_server import CompletionsServer

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ArrayError, ConfigError, PolicyError, RunError
from learnalign.gradient import Gap, Group, Sketcher
from learnalign.policy import Policy, load_policy
from learnalign.progress import Progress
from learnalign.rollout.engine import Response, Task
from learnalign.rollout.transformers import LocalEngine
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run
from learnalign.runs.gaps import Gaps

PROBLEMS = ["12+7", "sort 3241", "reverse 4726"]


def policy(model: Path | str = POLICY) -> Policy:
    return load_policy(PolicyConfig(model=str(model), dtype="float32"))


@pytest.fixture(scope="module")
def plain() -> Policy:
    return policy()


def samples(plain: Policy) -> list[list[Response]]:
    tasks = [Task(text, plain.encode(text, None), 4) for text in PROBLEMS]
    made = LocalEngine(plain, RolloutConfig(max_new_tokens=12, temperature=0.7)).sample(tasks)
    return [[one for one in made if one.prompt_id == text] for text in PROBLEMS]


def group(rows: list[Response], offset: float = 0.0, **more: Any) -> Group:
    """Responses with what was recorded; the first token of the first response is off by `offset`."""
    logs = [list(one.log_probabilities) for one in rows]
    logs[0][0] += offset
    rewards = [1.0, 0.0, 0.0, 0.0]
    return Group(rows[0].prompt_tokens, [one.tokens for one in rows], rewards, log_probabilities=logs, **more)


def test_the_gap_is_that_of_every_token_in_any_batch(plain: Policy) -> None:
    """An error put into one token is found there, in its size, whatever else is in the batch."""
    rows = samples(plain)
    sketcher = Sketcher(plain.model, SketchConfig(dimension=128), temperature=0.7)
    whole = [group(rows[0]), replace(group(rows[1]), log_probabilities=None), group(rows[2], 0.5)]
    together = sketcher.measure(whole)
    for one, tokens, mean, largest in zip(
        together.gaps,
        (sum(len(r.tokens) for r in rows[0]), 0, sum(len(r.tokens) for r in rows[2])),
        (0.0, math.nan, 0.5 / sum(len(r.tokens) for r in rows[2])),
        (0.0, math.nan, 0.5),
        strict=True,
    ):
        assert one.tokens == tokens
        np.testing.assert_allclose((one.mean, one.largest), (mean, largest), rtol=0, atol=1e-4)
    np.testing.assert_allclose(sketcher.measure(whole[2:]).gaps, together.gaps[2:], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(together.phi, sketcher.sketch(whole))


def test_only_tokens_with_a_gradient_and_a_record_count(plain: Policy) -> None:
    rows = samples(plain)[0]
    sketcher = Sketcher(plain.model, SketchConfig(dimension=128), temperature=0.7)
    lengths = [len(r.tokens) for r in rows]
    masked = group(rows, token_weights=[[0.0] * lengths[0], *[[1.0] * n for n in lengths[1:]]])
    assert sketcher.measure([masked]).gaps[0].tokens == sum(lengths[1:])
    unknown = group(rows, math.nan)
    assert sketcher.measure([unknown]).gaps[0].tokens == sum(lengths) - 1
    with pytest.raises(ArrayError, match="log_probabilities must have one number a response token"):
        sketcher.measure([replace(unknown, log_probabilities=[[0.0]] * 4)])


def opened(folder: Path, model: Path | str = POLICY, name: str = "run", **rollout: Any) -> RunDir:
    pool = folder / "pool.jsonl"
    write_pool(pool, 28, seed=3)
    config = Config(
        pool=PoolConfig(path=str(pool), limit=14),
        policy=PolicyConfig(model=str(model)),
        rollout=RolloutConfig(**{"responses": 4, "max_new_tokens": 10, **rollout}),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=128, dtype="float32"),
        select=SelectConfig(n=6),
    )
    return create_run(folder / name, config)


def worked(run: RunDir, last: str = "sketch") -> dict[str, Any]:
    """The record of the sketch stage after it."""
    pipeline.work(run, run.config, last, Progress(quiet=True))
    return run.record("sketch")


@contextmanager
def served(by: Policy, folder: Path, model: Path | str = POLICY, **settings: Any) -> Iterator[RunDir]:
    """A run whose responses come from a server of another policy."""
    more = {"tells_tokens": settings.pop("tells_tokens", True)}
    with CompletionsServer(by, **more) as server:
        yield opened(folder, model, engine="server", base_urls=server.url, **settings)


def test_a_right_setup_has_no_gap_and_says_so(tmp_path: Path) -> None:
    run = opened(tmp_path, temperature=0.7)
    record = worked(run, "report")
    found = record["logprob_gap"]
    lines = [json.loads(line) for line in (run.path / "sketches" / "gaps.jsonl").read_text().splitlines()]
    assert found["prompts"] == record["rows"] == len(lines)
    assert found["tokens"] == sum(line["tokens"] for line in lines)
    assert 0 < found["mean"] <= found["worst_mean"] <= found["largest"] < 1e-3
    assert record["notes"] == []
    report = (run.path / "report.html").read_text()
    assert "own log-probabilities of the sampled tokens" in report


def test_an_interrupted_run_ends_with_the_same_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_batches(name: str) -> RunDir:
        run = opened(tmp_path, name=name)
        run.save_config(replace(run.config, sketch=replace(run.config.sketch, batch_tokens=64)))
        return run

    whole, broken = small_batches("whole"), small_batches("broken")
    record = worked(whole)
    add, added = Gaps.add, list[int]()

    def dying(self: Gaps, prompt_ids: Any, gaps: Any) -> None:
        add(self, prompt_ids, gaps)
        added.append(len(prompt_ids))
        if len(added) == 2:
            raise KeyboardInterrupt  # written down, and not in the store

    with monkeypatch.context() as patch:
        patch.setattr(Gaps, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            worked(broken)
    assert len((broken.path / "sketches" / "gaps.jsonl").read_text().splitlines()) == sum(added) < record["rows"]
    assert worked(broken)["logprob_gap"] == record["logprob_gap"]
    for path in (whole.path / "sketches").iterdir():
        assert (broken.path / "sketches" / path.name).read_bytes() == path.read_bytes(), path.name


def noisy(share: float) -> Policy:
    """The policy with other weights."""
    other, generator = policy(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.add_(share * weight.std() * torch.randn(weight.shape, generator=generator))
    return other


def test_a_server_of_other_weights_is_refused(tmp_path: Path) -> None:
    with (
        served(noisy(0.3), tmp_path) as run,
        pytest.raises(PolicyError, match=r"were not sampled from .* more than rollout\.max_logprob_gap of 0\.2") as no,
    ):
        worked(run)
    assert "\n" not in str(no.value)
    allowed = replace(run.config, rollout=replace(run.config.rollout, max_logprob_gap=50.0))
    pipeline.work(run, allowed, "sketch", Progress(quiet=True))
    record = run.record("sketch")
    assert record["logprob_gap"]["mean"] > 0.2
    assert "is it the policy that was sampled?" in record["notes"][0]


def test_a_stale_adapter_is_refused(plain: Policy, tmp_path: Path) -> None:
    """The server answers as the policy did before its adapter was trained."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(POLICY), settings).save_pretrained(tmp_path / "adapter")
    with (
        served(plain, tmp_path, tmp_path / "adapter") as run,
        pytest.raises(PolicyError, match=r"were not sampled from .*adapter"),
    ):
        worked(run)


def test_a_wrong_policy_that_solves_nothing_is_refused_too(plain: Policy, tmp_path: Path) -> None:
    """Its garbage leaves no learnable prompt, and so nothing to sketch."""
    garbage = policy()
    with torch.no_grad():
        garbage.model.get_output_embeddings().weight.neg_()
    with served(garbage, tmp_path) as run, pytest.raises(PolicyError, match="were not sampled from"):
        worked(run)
    assert not list((run.path / "sketches").glob("shard-*.npy"))


def test_without_log_probabilities_it_is_said_that_nothing_was_checked(plain: Policy, tmp_path: Path) -> None:
    with served(plain, tmp_path, tells_tokens=False) as run:
        record = worked(run, "report")
    assert record["logprob_gap"] == {"prompts": 0}
    assert record["notes"] == [
        "not checked whether the responses are this policy's own: no log-probabilities were recorded with the tokens"
    ]
    assert not (run.path / "sketches" / "gaps.jsonl").exists()
    assert "were not checked against the policy" in (run.path / "report.html").read_text()


def test_what_is_not_in_the_store_is_forgotten(tmp_path: Path) -> None:
    """After a kill between the two writes, and in the middle of a line."""
    gaps = Gaps(tmp_path, set(), most=0.2)
    gaps.add(["a", "b"], [Gap(4, 0.01, 0.02), Gap()])
    before = (tmp_path / "gaps.jsonl").read_bytes()
    gaps.add(["c"], [Gap(6, 0.03, 0.5)])
    whole = (tmp_path / "gaps.jsonl").read_bytes()
    facts = gaps.facts()
    assert facts == {
        "prompts": 2, "tokens": 10, "mean": 0.022, "largest": 0.5, "worst_prompt": "c", "worst_mean": 0.03,
    }  # fmt: skip
    assert gaps.notes(3) == [
        "not checked whether 1 of 3 prompts are this policy's own: no log-probabilities were recorded with the tokens"
    ]
    (tmp_path / "gaps.jsonl").write_bytes(whole[:-3])
    again = Gaps(tmp_path, {"a", "b"}, most=0.2)
    assert (tmp_path / "gaps.jsonl").read_bytes() == before
    again.add(["c"], [Gap(6, 0.03, 0.5)])
    assert (tmp_path / "gaps.jsonl").read_bytes() == whole
    assert again.facts() == facts
    (tmp_path / "gaps.jsonl").write_text('{"prompt_id": "a"}\n')
    with pytest.raises(RunError, match="cannot be read"):
        Gaps(tmp_path, {"a"}, most=0.2)


def test_few_tokens_are_judged_at_the_end_only(tmp_path: Path) -> None:
    gaps = Gaps(tmp_path, set(), most=0.2)
    gaps.add(["a"], [Gap(255, 0.3, 1.0)])
    with pytest.raises(PolicyError, match=r"by 0\.3 on average over 255 tokens \(prompt 'a': 0\.3\)"):
        gaps.require()
    with pytest.raises(PolicyError, match="256 tokens"):
        gaps.add(["b"], [Gap(1, 0.3, 0.3)])
    noticed = Gaps(tmp_path / "exact", set(), most=0.2, exact=True)
    (tmp_path / "exact").mkdir()
    noticed.add(["a"], [Gap(9, 0.01, 0.1)])
    assert "differ from the policy's own by 0.01 on average" in noticed.notes(1)[0]
    assert Gaps(tmp_path / "exact", {"a"}, most=0.2).notes(1) == [], "rounding of bfloat16 may be the reason"
    with pytest.raises(ConfigError, match=r"rollout\.max_logprob_gap must be greater than 0"):
        RolloutConfig(max_logprob_gap=0.0)
