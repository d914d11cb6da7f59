"""A prompt is rendered once for all days; what a template drops, refuses or leaves empty is told and not sampled."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import ConfigError, PolicyError
from learnalign.policy import load_renderer
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run
from learnalign.runs.stages import rollout, sketch

SHOWS = "{% for m in messages %}{{ m['content'] }}{% endfor %}="


def templated(folder: Path, template: object) -> str:
    """A copy of the demo policy with another chat template."""
    policy = shutil.copytree(POLICY, folder / "policy")
    settings = policy / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    return str(policy)


def opened(folder: Path, model: str = str(POLICY), **rollout: int) -> RunDir:
    """A run with its pool read."""
    pool = folder / "pool.jsonl"
    write_pool(pool, 28, seed=3)
    config = Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=model),
        rollout=RolloutConfig(**{"max_new_tokens": 16, **rollout}),  # type: ignore[arg-type]
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, dtype="float32"),
        select=SelectConfig(n=6),
    )
    run = create_run(folder / "run", config)
    with run.locked():
        pipeline.advance(run, "pool", Progress(quiet=True))
    return run


def test_a_template_that_prints_the_date_gives_a_run_one_text(tmp_path: Path) -> None:
    dated = load_renderer(PolicyConfig(model=templated(tmp_path, "{{ strftime_now('%d%m%S') }} " + SHOWS)))
    assert dated.dated
    assert not load_renderer(PolicyConfig(model=str(POLICY))).dated
    run = opened(tmp_path, dated.name)
    begun = run.rendering_time()
    again = create_run(run.path, run.config)
    assert again.rendering_time() == begun, "kept in the manifest"
    frozen, later = dated.at(begun), dated.at(begun + timedelta(days=1))
    assert frozen.render("1+1", None) == f"{begun:%d%m%S} 1+1="
    assert frozen.encode("1+1", None) != later.encode("1+1", None)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% set form = '%d' ~ ' %B' %}{{ strftime_now(form) }} " + SHOWS, "02 January 1+1="),
        ("{%- if strftime_now is defined %}{% set day = strftime_now('%-d %b %Y, 5%%') %}{{ day }}{% endif %}", None),
        ("\n  {% if true %}{{ strftime_now('%Y') }}{% endif %} {{ messages[0]['content'] }}", None),
    ],
)
def test_whatever_a_template_does_with_the_time_it_is_frozen(tmp_path: Path, template: str, text: str | None) -> None:
    """In a format that it computes, too; and nothing else of its text changes."""
    renderer, when = load_renderer(PolicyConfig(model=templated(tmp_path, template))), datetime(1999, 1, 2)
    frozen = renderer.at(when).render("1+1", None)
    assert frozen == (text or renderer.render("1+1", None).replace(*_today(when, template)))


def _today(when: datetime, template: str) -> tuple[str, str]:
    form = "%-d %b %Y, 5%%" if "%b" in template else "%Y"
    return f"{datetime.now():{form}}", f"{when:{form}}"


def test_the_rollout_stage_renders_with_the_runs_time(tmp_path: Path) -> None:
    run = opened(tmp_path, templated(tmp_path, "{{ strftime_now('%Y') }}" + SHOWS))
    run.manifest["rendered"] = datetime(1999, 1, 2).isoformat()
    with run.locked():
        pipeline.advance(run, "rollout", Progress(quiet=True))
    prompts = pq.read_table(run.path / "rollouts" / "part-000000.parquet")["prompt_tokens"].to_pylist()
    tokenizer = load_renderer(run.policy).tokenizer
    year = tokenizer("1999", add_special_tokens=False)["input_ids"]
    assert all(tokens[: len(year)] == year for tokens in prompts)


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages[7]['content'] + 1 }}", "{{ raise_exception('no') }}", "{% if %}"]
)
def test_any_error_of_a_template_is_one_line(tmp_path: Path, template: str) -> None:
    renderer = load_renderer(PolicyConfig(model=templated(tmp_path, template)))
    with pytest.raises(PolicyError, match=r"the chat template of .* refuses the messages of '1\+1': .") as refusal:
        renderer.encode("1+1", None)
    assert "\n" not in str(refusal.value)


def test_a_template_that_drops_the_problem_is_refused(tmp_path: Path) -> None:
    run = opened(tmp_path, templated(tmp_path, "answer="))
    with pytest.raises(PolicyError, match="and another problem to the same text: it drops the problem"):
        rollout.tokenized(run, load_renderer(run.policy))


def test_a_prompt_that_renders_to_nothing_is_left_out_and_said(tmp_path: Path) -> None:
    run = opened(tmp_path, templated(tmp_path, "{% if '+' in messages[0]['content'] %}" + SHOWS + "{% endif %}"))
    prompts, skipped = rollout.tokenized(run, load_renderer(run.policy))
    assert len(prompts) + len(skipped) == 28
    assert prompts
    assert {reason for _, reason in skipped} == {"the prompt is empty when it is rendered"}


def test_templates_are_told_what_is_set(tmp_path: Path) -> None:
    name = templated(tmp_path, "{% if enable_thinking is false %}9{% endif %}" + SHOWS)
    told = PolicyConfig(model=name, chat_template_kwargs='{"enable_thinking": false}')
    assert load_renderer(told).render("1+1", None) == "91+1="
    assert load_renderer(PolicyConfig(model=name)).render("1+1", None) == "1+1="
    for wrong in ("{", "[1]", "3"):
        with pytest.raises(ConfigError, match=r"policy\.chat_template_kwargs must be a JSON object"):
            Config(policy=PolicyConfig(chat_template_kwargs=wrong))


def test_settings_of_the_prompt_that_change_nothing_are_told(tmp_path: Path) -> None:
    """An instruction where all prompts are messages, and an argument that no template asks for."""
    run = opened(tmp_path)
    rows = [{"messages": [{"role": "user", "content": f"{k}+1"}], "answer": str(k + 1)} for k in range(4)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = replace(
        run.config.policy,
        instruction="Think first.",
        chat_template_kwargs='{"enable_thinking": false, "chat_template": "default"}',
    )
    asked = replace(
        run.config,
        pool=PoolConfig(path=str(tmp_path / "chats.jsonl")),
        policy=policy,
        select=SelectConfig(n=2),
    )
    run = create_run(tmp_path / "chats", asked)
    with run.locked():
        pipeline.advance(run, "pool", Progress(quiet=True))
    assert rollout._notes(run, load_renderer(PolicyConfig(model=str(POLICY))), [], 0.0) == [
        "policy.instruction changes nothing: all prompts are chat messages, which stay as they are",
        "policy.chat_template_kwargs: enable_thinking changes nothing: "
        "the tokenizer's chat template does not ask for it",
    ]


def test_several_templates_without_a_default_want_a_choice(tmp_path: Path) -> None:
    named = [{"name": "plain", "template": SHOWS}, {"name": "tools", "template": "t" + SHOWS}]
    name = templated(tmp_path, named)
    with pytest.raises(PolicyError, match=r"several chat templates \(plain, tools\) and no default: choose one"):
        load_renderer(PolicyConfig(model=name))
    chosen = PolicyConfig(model=name, chat_template_kwargs='{"chat_template": "tools"}')
    assert load_renderer(chosen).render("1+1", None) == "t1+1="


def test_cut_responses_are_counted_told_and_masked(tmp_path: Path) -> None:
    """Against the tokens themselves: a response is cut that does not end with the end token."""
    run = opened(tmp_path, max_new_tokens=4)
    with run.locked():
        pipeline.advance(run, "reward", Progress(quiet=True))
    table = pq.read_table(run.path / "rollouts" / "part-000000.parquet")
    cut = np.array([tokens[-1] != 1 for tokens in table["tokens"].to_pylist()])
    record = run.record("rollout")
    assert 0.1 < record["cut"] == cut.mean() < 1
    assert record["notes"] == [
        f"warning: {cut.mean():.1%} of the responses were cut at 4 tokens: raise rollout.max_new_tokens"
    ]
    assert all(group.token_weights is None for _, _, group in sketch.rows_of(run))
    plain = {prompt_id for prompt_id, _, _ in sketch.rows_of(run)}
    before = sketch.meaning(run)
    run.save_config(replace(run.config, sketch=replace(run.config.sketch, mask_truncated=True)))
    assert sketch.meaning(run) == before | {"sketch.mask_truncated": True}
    masked = list(sketch.rows_of(run))
    assert len(masked) == sketch.learnable_count(run)
    assert {prompt_id for prompt_id, _, _ in masked} <= plain
    weighed = [(tokens, w) for _, _, g in masked for tokens, w in zip(g.responses, g.token_weights or [], strict=True)]
    assert any(tokens[-1] != 1 for tokens, _ in weighed)
    assert all(set(w) == {float(tokens[-1] == 1)} for tokens, w in weighed)
