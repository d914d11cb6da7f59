"""A verifier for every source of a pool, as verl chooses its reward by `data_source`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from learnalign.cli import app
from learnalign.cli.asked import Asked
from learnalign.config import Config, RewardConfig, get, parse_assignments, read_config, to_toml
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError, RewardError
from learnalign.rewards import Prompt, make_verifier
from learnalign.rewards.by_source import BySourceVerifier
from learnalign.runs.directory import open_run

LIMITS: dict[str, Any] = {"workers": 1, "timeout_seconds": 30.0, "memory_mb": 2048}


def test_each_source_has_its_judge() -> None:
    made = {name: make_verifier(name, **LIMITS) for name in ("exact", "choice")}
    prompts = [Prompt(source=source) for source in ("sums", "quiz", "sums")]
    with BySourceVerifier(made, {"sums": "exact", "quiz": "choice"}) as verifier:
        verdicts = verifier.judge(["5", "(B) Paris", "B"], ["5.0", "B", "B"], prompts)
        assert [verdict.correct for verdict in verdicts] == [True, True, True]
        assert not verifier.judge(["(B) Paris"], ["B"], [Prompt(source="sums")])[0].correct
        with pytest.raises(RewardError, match=r"no verifier for the source 'other' \(reward.by_source has 'sums'"):
            verifier.judge(["5"], ["5"], [Prompt(source="other")])
        with pytest.raises(RewardError, match="needs prompts"):
            verifier.judge(["5"], ["5"])


def test_the_table_is_read_from_toml_and_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[reward.by_source]\n"openai/gsm8k" = "math"\n"v1.0 quiz" = "choice"\n')
    config = read_config(tmp_path / "a.toml")
    assert config.reward.by_source == {"openai/gsm8k": "math", "v1.0 quiz": "choice"}
    (tmp_path / "b.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "b.toml") == config
    more = parse_assignments(config, ["reward.by_source.v1.0 quiz=exact", "reward.by_source.code=code"])
    assert more.reward.by_source == {"openai/gsm8k": "math", "v1.0 quiz": "exact", "code": "code"}
    assert get(more, "reward.by_source.code") == "code"
    assert more.reward.verifiers == ("math", "exact", "code")
    assert (more.reward.verifier_of("code"), more.reward.verifier_of("none")) == ("code", "")
    assert RewardConfig().verifier_of("anything") == "math"


@pytest.mark.parametrize("verifier", ["maths", "imported", "mine.py"])
def test_other_names_are_refused(verifier: str) -> None:
    with pytest.raises(ConfigError, match=f"the verifier of 'a' must be one of .* found '{verifier}'"):
        Config(reward=RewardConfig(by_source={"a": verifier}))


def test_functions_are_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Asked({}, ["reward.by_source.a=mine.py:reward", "reward.by_source.b=math"], None)
    config = asked.config(tmp_path / "run")
    assert config.reward.by_source == {"a": f"{tmp_path / 'mine.py'}:reward", "b": "math"}


def test_a_pool_of_several_sources(tmp_path: Path) -> None:
    """In verl's layout; a source without a verifier, or without answers that it needs, is refused early."""
    (tmp_path / "mine.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    assert data_source == 'own' and extra_info['index'] == 1\n"
        "    return {'score': 0.5, 'acc': 1}\n"
    )
    rows = [("sums", "5"), ("own", ""), ("quiz", "B")]
    (tmp_path / "pool.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "data_source": source,
                    "prompt": [{"role": "user", "content": f"{k}+{k + 1}"}],
                    "reward_model": {"style": "rule", "ground_truth": answer},
                    "extra_info": {"index": k},
                }
            )
            + "\n"
            for k, (source, answer) in enumerate(rows)
        )
    )
    run = tmp_path / "run"
    command = ["reward", str(run), "--pool", str(tmp_path / "pool.jsonl"), "--model", str(POLICY), "--select", "1"]
    command += ["--quiet", "--set", "rollout.max_new_tokens=4", "--set", "reward.by_source.sums=exact"]
    own = ["--set", f"reward.by_source.own={tmp_path / 'mine.py'}:compute_score"]
    refused = CliRunner().invoke(app, [*command, *own])
    assert refused.exit_code == 2
    assert "no verifier for the source 'quiz'" in refused.stderr
    assert "--set 'reward.by_source.quiz=VERIFIER'" in refused.stderr
    assert not (run / "rollouts").exists()
    done = CliRunner().invoke(app, [*command, "--set", "reward.by_source.quiz=choice"])
    assert done.exit_code == 0, done.stderr
    verdicts = pq.read_table(run / "rewards" / "part-000000.parquet").to_pylist()
    how = {one["prompt_id"]: {v["reward"] for v in verdicts if v["prompt_id"] == one["prompt_id"]} for one in verdicts}
    assert how["1"] == {0.5}
    assert how["0"] <= {0.0, 1.0}
    assert how["2"] == {0.0}
    inputs = open_run(run).record("reward")["inputs"]
    assert json.loads(inputs["reward.verifier"])["quiz"] == "choice"
    assert len(inputs["reward function"]) == 64
    lacking = CliRunner().invoke(app, ["reward", str(run), "--quiet", "--set", "reward.by_source.own=math"])
    assert lacking.exit_code == 2
