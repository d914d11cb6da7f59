"""The server engine: asks for what the other engines sample, outlives outages, and gives up in one clear line."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from learnalign.rollout.temperature import of_the_sampling
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
    sampling = [request for request in server.requests if request["logprobs"] == 1]
    assert len(server.requests) - len(sampling) == 2, "one prompt was asked at two temperatures"
    sent = sampling[0]
    assert (sent["model"], sent["temperature"], sent["n"], sent["max_tokens"]) == ("me", 0.7, 1, 12)
    assert (sent["top_p"], sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)
    assert sent["stop_token_ids"] == list(policy.eos_ids)
    assert len({request["seed"] for request in sampling}) == 4 * len(PROBLEMS), "a seed a response"


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities_at_another_temperature_are_left_out(policy: Policy, raw: bool, temperature: float) -> None:
    """vLLM's are at temperature 1 by default; the policy's own are at the sampling's."""
    told: list[str] = []
    with CompletionsServer(policy, raw=raw) as server:
        engine = ServerEngine(settings(server.url, temperature=temperature), policy, told.append)
        made = engine.sample(tasks(policy, 2))
        engine.sample(tasks(policy, 1))
    assert len(server.requests) == 3 * len(PROBLEMS) + 2, "found out once"
    assert {math.isnan(x) for r in made for x in r.log_probabilities} == {raw}
    assert ["tells log-probabilities at temperature 1" in line for line in told] == [True] * raw
    assert engine.facts()["log_probabilities"] == ("none" if raw else "at the sampling temperature")


def test_the_temperature_of_log_probabilities_can_stay_unknown() -> None:
    """All tokens alike, none in common, or a temperature next to 1."""
    assert of_the_sampling({"a": -1.0, "b": -1.0}, {"a": -1.0, "b": -1.0}, 0.5) is None
    assert of_the_sampling({"a": -1.0}, {"b": -1.0}, 0.5) is None
    assert of_the_sampling({"a": -0.5, "b": -1.5}, {"a": -0.5, "b": -1.5}, 0.99) is None
    assert of_the_sampling({}, {}, 0.5) is None


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
    assert len(server.requests) <= 4 * len(PROBLEMS)
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
        first_round = 2 * 28
        assert first_round < asked
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


GOOD = {"index": 0, "text": "19", "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([GOOD], "where an object with choices was expected"),
        ({"error": {"message": "model is sleeping"}}, "answers with an error: model is sleeping"),
        ({"choices": None}, "answers None as choices"),
        ({"choices": [GOOD, GOOD]}, "answers 2 responses"),
        ({"choices": [None]}, "needs text"),
        ({"choices": [GOOD | {"text": None}]}, r"needs text \(str\), found None"),
        ({"choices": [{"text": "19", "finish_reason": "stop"}]}, "needs index"),
        ({"choices": [GOOD | {"finish_reason": None}]}, "needs finish_reason"),
        ({"choices": [GOOD | {"finish_reason": "abort"}]}, "finished by 'abort' is not whole"),
        ({"choices": [GOOD | {"token_ids": ["a"]}]}, "token_ids must be a list of integers"),
        ({"choices": [GOOD | {"token_ids": [4, 151_000]}]}, r"token id 151000, .* 49 tokens: it serves another policy"),
        ({"choices": [GOOD | {"token_ids": [4, -1]}]}, "token id -1"),
        ({"choices": [GOOD | {"text": "", "finish_reason": "length"}]}, "an empty response to prompt"),
    ],
)
def test_an_answer_in_another_form_ends_in_one_line(policy: Policy, answer: Any, message: str) -> None:
    with (
        CompletionsServer(policy, lambda _: (200, answer)) as server,
        pytest.raises(EngineError, match=message) as refusal,
    ):
        ServerEngine(settings(server.url), policy).sample(tasks(policy)[:1])
    assert "\n" not in str(refusal.value)
    assert server.url in str(refusal.value)


def logged(tokens: list[str], **more: Any) -> dict[str, Any]:
    """Log-probabilities of some tokens as vLLM and SGLang tell them."""
    logs = [-0.5, -0.25, -0.125][: len(tokens)]
    offsets = {"text_offset": [-1] * len(tokens)}
    return {
        "logprobs": {"token_logprobs": logs, "tokens": tokens, "top_logprobs": [None] * len(tokens)} | offsets
    } | more


USAGE = {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": None}
VLLM = {  # 0.32, with return_token_ids
    "choice": logged(
        ["4", "5", "<eos>"],
        stop_reason=None,
        token_ids=[8, 9, 1],
        prompt_logprobs=None,
        prompt_token_ids=[5, 6],
        finish_reason="stop",
    ),
    "answer": {"id": "cmpl-1", "system_fingerprint": None, "kv_transfer_params": None, "service_tier": None},
}
VLLM_STOP = VLLM | {"choice": VLLM["choice"] | {"stop_reason": 1}}  # where the end token is one of stop_token_ids
SGLANG_OLD = {  # before it had return_token_ids
    "choice": logged(["4", "5", "<eos>"], matched_stop=1, finish_reason="stop"),
    "answer": {"id": "1f0e"},
}
SGLANG = {  # output_ids as token_ids, through the end
    "choice": SGLANG_OLD["choice"] | {"token_ids": [8, 9, 1], "prompt_token_ids": [5, 6], "hidden_states": None},
    "answer": {"id": "1f0e", "metadata": {"weight_version": "default"}, "sglext": None},
}
SGLANG_TRIMMED = SGLANG | {"choice": logged(["4", "5"], token_ids=[8, 9], matched_stop=1, finish_reason="stop")}
TGI = {
    "choice": {"logprobs": None, "finish_reason": "eos_token"},
    "answer": {"id": "", "system_fingerprint": "3.0.0-native"},
}
ANSWERS = {
    "vllm": (VLLM, [-0.5, -0.25, -0.125]),
    "vllm, stop token": (VLLM_STOP, [-0.5, -0.25, -0.125]),
    "sglang": (SGLANG, [-0.5, -0.25, -0.125]),
    "sglang, end left out": (SGLANG_TRIMMED, [-0.5, -0.25]),
    "sglang, no ids": (SGLANG_OLD, []),
    "tgi": (TGI, []),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answers_of_three_servers_end_as_training_sees_them(policy: Policy, name: str) -> None:
    """Some leave the end token out, of the text or of the ids, and say that it was there."""
    shape, logs = ANSWERS[name]
    choice = {"index": 0, "text": policy.decode([8, 9])} | shape["choice"]
    answer = {"object": "text_completion", "created": 1, "model": "me", "choices": [choice], "usage": USAGE}
    with CompletionsServer(policy, lambda _: (200, answer | shape["answer"])) as server:
        (made,) = ServerEngine(settings(server.url), policy).sample([Task("a", [5, 6], 1)])
    assert (made.tokens, made.text, made.finish) == ([8, 9, 1], policy.decode([8, 9]), "stop")
    assert len(made.log_probabilities) == 3
    assert [x for x in made.log_probabilities if math.isfinite(x)] == logs


def test_tgi_refuses_token_ids_in_one_line(policy: Policy) -> None:
    body = "Failed to deserialize the JSON body into the target type: prompt: Expected a string or an array of strings"
    with (
        CompletionsServer(policy, lambda _: (422, body)) as server,
        pytest.raises(EngineError, match=r"HTTP 422: .*Expected a string.*as token ids, .* and TGI does not"),
    ):
        ServerEngine(settings(server.url), policy).sample(tasks(policy)[:1])


@pytest.mark.parametrize("url", ["localhost:1/v1", "ftp://localhost/v1", "http://localhost:port/v1", "http://[::1/v1"])
def test_a_malformed_address_is_final(policy: Policy, url: str) -> None:
    with pytest.raises(EngineError, match=r"is no address of a server .*rollout\.base_urls"):
        ServerEngine(settings(url), policy).sample(tasks(policy)[:1])


def test_the_first_trouble_is_told_at_once_and_once(policy: Policy) -> None:
    told: list[str] = []
    with CompletionsServer(policy, lambda number: (503, {}) if number < 3 else None) as server:
        ServerEngine(settings(server.url), policy, told.append).sample(tasks(policy)[:2])
    assert len(told) == 1
    assert told[0].startswith(f"rollout: {server.url}: HTTP 503")
    assert "for up to 30 s" in told[0]


@pytest.mark.parametrize("logs", [{}, {"logprobs": {"token_logprobs": [-0.3, -0.1]}}])
def test_groups_that_are_all_equal_are_refused(policy: Policy, logs: dict[str, Any]) -> None:
    """A server that ignores the seed answers 24 of 24 prompts with copies; a sure policy says so."""
    same = GOOD | {"token_ids": [8, 1]} | logs
    pool = [Task(f"p{k}", [5, 6], 8) for k in range(24)]
    with (
        CompletionsServer(policy, lambda _: (200, {"choices": [same]})) as server,
        pytest.raises(EngineError, match=r"all responses to a prompt are the same, for each of 24 prompts"),
    ):
        ServerEngine(settings(server.url), policy).sample(pool)
    sure = GOOD | {"token_ids": [8, 1], "logprobs": {"token_logprobs": [-1e-4, 0.0]}}
    with CompletionsServer(policy, lambda _: (200, {"choices": [sure]})) as server:
        assert len(ServerEngine(settings(server.url), policy).sample(pool)) == 24 * 8
