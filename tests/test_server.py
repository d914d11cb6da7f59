"""The server engine: asks for what the other engines sample, outlives outages, and gives up in one clear line."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from agreement import POWER, SIGNIFICANCE, compare, p_value
from completions_server import Answer, CompletionsServer

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError, EngineError
from learnalign.policy import Policy, load_policy
from learnalign.rollout.engine import Task
from learnalign.rollout.openai import ServerEngine
from learnalign.runs import pipeline
from learnalign.runs.directory import open_run

PROBLEMS = ["12+7", "sort 3241", "reverse 4726", "99 mod 4", "31*7", "12+3+4"]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(PolicyConfig(model=str(POLICY)))


def settings(*urls: str, **more: object) -> Config:
    rollout = RolloutConfig(engine="server", base_urls=" ".join(urls), max_new_tokens=12, patience_seconds=30.0)
    return Config(policy=PolicyConfig(model=str(POLICY)), rollout=replace(rollout, **more))  # type: ignore[arg-type]


def tasks(policy: Policy, count: int = 4) -> list[Task]:
    return [Task(f"id-{text}", policy.encode(text, None), count) for text in PROBLEMS]


def test_responses_come_in_the_tasks_order(policy: Policy) -> None:
    with CompletionsServer(policy) as server, ServerEngine(settings(server.url), policy) as engine:
        made = engine.sample(tasks(policy))
        facts = engine.facts()
    assert [(r.prompt_id, r.number) for r in made] == [(f"id-{p}", k) for p in PROBLEMS for k in range(4)]
    for r in made:
        assert r.text == policy.decode(r.tokens)
        assert (r.finish == "stop") == (r.tokens[-1] in policy.eos_ids)
        assert all(math.isfinite(x) for x in r.log_probabilities)
    assert facts["token_ids"] == "told by the server"


def test_every_sampling_setting_is_sent(policy: Policy) -> None:
    """A server's defaults (top-k, top-p, penalties) come from the model's generation_config and would bias rates."""
    with CompletionsServer(policy) as server:
        ServerEngine(settings(server.url, temperature=0.7, served_model="me"), policy).sample(tasks(policy))
    sent = server.requests[0]
    assert (sent["model"], sent["temperature"], sent["n"], sent["max_tokens"]) == ("me", 0.7, 4, 12)
    assert (sent["top_p"], sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)
    assert sent["stop_token_ids"] == list(policy.eos_ids)
    assert len({request["seed"] for request in server.requests}) == len(PROBLEMS)


def test_without_token_ids_the_text_is_tokenized(policy: Policy) -> None:
    with CompletionsServer(policy, tells_tokens=False) as server:
        engine = ServerEngine(settings(server.url), policy)
        made = engine.sample(tasks(policy))
    with CompletionsServer(policy) as server:
        told = ServerEngine(settings(server.url), policy).sample(tasks(policy))
    assert [(r.tokens, r.text, r.finish) for r in made] == [(r.tokens, r.text, r.finish) for r in told]
    assert all(math.isnan(x) for r in made for x in r.log_probabilities)
    assert engine.facts()["token_ids"] == "by tokenizing text"


def test_an_outage_is_outlived_and_servers_take_turns(policy: Policy) -> None:
    """One of two servers fails five times in three ways; nothing is lost, and no more run at once than allowed."""

    def trouble(number: int) -> Answer | None:
        return (503, {}) if number < 2 else (429, {}) if number < 4 else (500, {}) if number == 4 else None

    with CompletionsServer(policy) as steady, CompletionsServer(policy, trouble) as shaky:
        made = ServerEngine(settings(steady.url, shaky.url, concurrency=2), policy).sample(tasks(policy))
        expected = ServerEngine(settings(steady.url, concurrency=2), policy).sample(tasks(policy))
    assert made == expected
    assert len(shaky.requests) >= 3
    assert max(steady.most_at_once, shaky.most_at_once) <= 2


def test_a_refusal_is_final_and_silence_ends_in_one_line(policy: Policy) -> None:
    with (
        CompletionsServer(policy, lambda _: (404, {"error": "no model `x`"})) as server,
        pytest.raises(EngineError, match=r"HTTP 404: .*no model .x."),
    ):
        ServerEngine(settings(server.url), policy).sample(tasks(policy))
    assert len(server.requests) <= len(PROBLEMS)
    with pytest.raises(EngineError, match=r"does not answer for 1 s \(ConnectError"):
        ServerEngine(settings(server.url, patience_seconds=1.0), policy).sample(tasks(policy)[:1])
    with pytest.raises(ConfigError, match="base_urls"):
        settings()


def run_config(folder: Path, rollout: RolloutConfig, size: int = 84) -> Config:
    pool = folder / "pool.jsonl"
    if not pool.exists():
        write_pool(pool, size, seed=3)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=rollout,
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32"),
        select=SelectConfig(n=6),
    )


def test_success_rates_agree_with_the_transformers_engine(policy: Policy, tmp_path: Path) -> None:
    """The same pool through both engines: the verdicts could be those of one, at the named level of significance."""
    local = RolloutConfig(max_new_tokens=16)
    with CompletionsServer(policy) as server:
        remote = replace(local, engine="server", base_urls=server.url)
        runs = [pipeline.run(run_config(tmp_path, how), tmp_path / how.engine).directory for how in (local, remote)]
    one, two = (pq.read_table(run / "scores.parquet")["success_rate"].to_numpy() * 8 for run in runs)
    assert (one != two).any(), "the engines draw differently"
    one, two = np.rint(one).astype(int), np.rint(two).astype(int)
    assert p_value(one, two, 8) > SIGNIFICANCE
    assert compare(one, two, 8).p > SIGNIFICANCE


def test_a_shift_over_the_prompts_is_found_as_often_as_said() -> None:
    """Cochran-Mantel-Haenszel on simulated verdicts: p is uniform without a shift, small with the detectable one."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, 84).clip(0.1, 0.7)
    same = [compare(rng.binomial(16, p), rng.binomial(16, p), 16) for _ in range(2000)]
    assert abs(np.mean([found.p < 0.05 for found in same]) - 0.05) < 0.015
    assert np.std([found.difference for found in same]) == pytest.approx(same[0].error, rel=0.1)
    shifted = p + same[0].detectable
    found = [compare(rng.binomial(16, p), rng.binomial(16, shifted), 16).p < SIGNIFICANCE for _ in range(500)]
    assert abs(np.mean(found) - POWER) < 0.05
    with pytest.raises(ValueError, match="the same"):
        compare(np.array([0, 8]), np.array([0, 8]), 8)


def test_the_agreement_test_can_fail() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, 84)
    assert p_value(rng.binomial(8, p), rng.binomial(8, p), 8) > SIGNIFICANCE
    assert p_value(rng.binomial(8, p), rng.binomial(8, np.clip(1.4 * p, 0, 1)), 8) < SIGNIFICANCE


def test_resumed_after_an_outage_and_a_kill_in_a_round(policy: Policy, tmp_path: Path) -> None:
    """The server dies in the second round for longer than patience, then the client is killed: no trace remains."""
    with CompletionsServer(policy) as server:
        how = RolloutConfig(
            engine="server",
            base_urls=server.url,
            max_new_tokens=16,
            allocation="screen",
            batch_sequences=16,
            concurrency=4,
        )
        whole = pipeline.run(run_config(tmp_path, how, 28), tmp_path / "whole").directory
        asked = len(server.requests)
        first_round = sum(request["n"] == 2 for request in server.requests)
        assert 28 == first_round < asked
        server.requests.clear()
        server.trouble = lambda number: (503, {}) if number >= first_round + 3 else None
        run = tmp_path / "broken"
        with pytest.raises(EngineError, match="finished parts are kept"):
            pipeline.run(run_config(tmp_path, replace(how, patience_seconds=1.0)), run)
        server.trouble = lambda number: (503, {}) if number % 4 == 3 else None
        command = [
            sys.executable,
            "-m",
            "learnalign.cli",
            "run",
            str(run),
            "--quiet",
            "--set",
            "rollout.patience_seconds=60",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        before = len(server.requests)
        while process.poll() is None and len(server.requests) < before + 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.trouble = lambda _: None
        pipeline.run(open_run(run).config, run)
    for folder in ("rollouts", "rewards", "sketches"):
        for path in (whole / folder).iterdir():
            assert (run / folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert (run / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()
