"""Settings survive a round trip through TOML; what is unknown or out of range is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from learnalign.config import Config, get, parse_assignment, parse_assignments, read_config, to_toml, with_values
from learnalign.errors import ConfigError


def test_every_default_is_spelled_out_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(Config()))
    assert read_config(file) == Config()
    for section in fields(Config):
        for key in fields(getattr(Config(), section.name)):
            assert key.name in file.read_text()


def test_changed_values_survive(tmp_path: Path) -> None:
    config = parse_assignment(Config(), "rollout.temperature=0.5")
    config = parse_assignment(config, 'policy.instruction=Say "why";\nthen = \\boxed{x}')
    config = parse_assignment(config, "sketch.dimension=1024")
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert read_config(file) == config
    assert (get(config, "rollout.temperature"), get(config, "sketch.dimension")) == (0.5, 1024)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rollouts]\nseed = 1", "unknown section"),
        ("[rollout]\nsede = 1", "unknown key rollout.sede; known: responses, temperature"),
        ('[rollout]\nseed = "1"', "rollout.seed must be int, found str '1'"),
        ("[rollout]\nseed = true", "rollout.seed must be int, found bool"),
        ("[rollout]\nresponses = 1", "at least 2"),
        ("[rollout]\ntemperature = nan", "greater than 0"),
        ("[select]\nn = 0", "select.n must be greater than 0, found 0"),
        (
            '[select]\nstrategy = "best"',
            "one of top, greedy, random_positive, band, alignment, random, length, history, limr, found 'best'",
        ),
        ("[sketch]\ndimension = 1000", "power of two"),
        ("[sketch]\nseed = -1", "from 0 to"),
        ("[sketch]\nrank = -1", "sketch.rank must be at least 0 (0 folds exact gradients), found -1"),
        ('[sketch]\nweighting = "sum"', "one of mean, token, constant, found 'sum'"),
        ('[sketch]\nresponses_used = "best"', "one of all, one_correct"),
        ('[sketch]\nspace = "half"', "one of full, lora"),
        ("[sketch]\nadvantage_std = 1", "must be bool, found int 1"),
        ('[policy]\nplain_template = "x"', "{problem}"),
        (
            '[reward]\nverifier = "best"',
            "math, exact, choice, code, imported, or a function as file.py:function, found 'best'",
        ),
        ('[reward]\nverifier = "mine.py"', "file.py:function"),
        ("[reward]\nthreshold = inf", "reward.threshold must be a finite number, found inf"),
        ('[reward]\nsandbox_url = "host:80"', "must be an http address, found 'host:80'"),
        ("rollout = 3", "must be a table"),
        ("[rollout", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_switches_are_set_by_name() -> None:
    assert get(parse_assignment(Config(), "sketch.advantage_std=false"), "sketch.advantage_std") is False
    assert get(parse_assignment(Config(), "sketch.checkpointing=true"), "sketch.checkpointing") is True
    with pytest.raises(ConfigError, match="true or false, found 'yes'"):
        parse_assignment(Config(), "sketch.checkpointing=yes")


@pytest.mark.parametrize(
    "pair",
    [
        ("rollout.engine=server", "rollout.base_urls=http://host:8000/v1"),
        ("sketch.kl_beta=0.04", "sketch.reference=there"),
        ("rollout.allocation=halving", "rollout.responses=32"),
    ],
)
def test_settings_given_together_are_checked_together(pair: tuple[str, str]) -> None:
    """In either order, and as options; each alone is refused still."""
    one, two = parse_assignments(Config(), pair), parse_assignments(Config(), pair[::-1])
    assert one == two != Config()
    key, _, value = pair[1].partition("=")
    section, name = key.split(".")
    option = int(value) if name == "responses" else value
    assert parse_assignments(Config(), pair[:1], {section: {name: option}}) == one
    with pytest.raises(ConfigError):
        parse_assignment(Config(), pair[0])


def test_the_last_of_several_assignments_counts_and_each_is_named() -> None:
    assert parse_assignments(Config(), ["rollout.seed=1", "rollout.seed=2"]).rollout.seed == 2
    with pytest.raises(ConfigError, match=r"--set rollout\.no=1: unknown key"):
        parse_assignments(Config(), ["rollout.seed=1", "rollout.no=1"])


def test_an_integer_serves_as_a_float() -> None:
    assert get(with_values(Config(), {"rollout": {"temperature": 1}}, "x"), "rollout.temperature") == 1.0


@pytest.mark.parametrize("text", ["rollout.seed", "seed=1", "rollout.seed=one", "nothing.seed=1", "rollout.no=1"])
def test_bad_assignments_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_assignment(Config(), text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        read_config(tmp_path / "nowhere.toml")
