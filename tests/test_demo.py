"""The embedded default: right answers, habits that mislead where they say so, and a policy worth selecting for."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import learnalign.demo
from learnalign.demo import train
from learnalign.demo.arithmetic import CELLS, FAMILIES, distinct, draw
from learnalign.demo.pool import write_pool
from learnalign.errors import PoolError

POLICY = Path(learnalign.demo.__file__).parent / "policy"
TINY = train.Recipe(hidden=16, layers=1, heads=2, batch=8, skill_steps=60, habit_steps=3)


def solve(text: str) -> str:
    """The answer from the text alone, by another route than the generator's."""
    numbers = [int(x) for x in re.findall(r"\d+", text)]
    match re.findall(r"[a-z]+|[+*-]", text):
        case ["sort"]:
            return re.sub(r"\D", "", str(sorted(str(numbers[0]))))
        case ["reverse"]:
            return str(numbers[0])[::-1]
        case ["mod"]:
            return str(numbers[0] - numbers[0] // numbers[1] * numbers[1])
        case ["*"]:
            return str(sum(numbers[0] for _ in range(numbers[1])))
        case ["-"]:
            return str(next(x for x in range(numbers[0] + 1) if numbers[1] + x == numbers[0]))
        case ["+"] | ["+", "+"]:
            return str(sum(numbers))
    raise AssertionError(f"not a problem: {text!r}")


@pytest.mark.parametrize(("family", "level"), CELLS)
def test_answers_are_right_and_canonical(family: str, level: int) -> None:
    rng = Random(level)
    for _ in range(100):
        problem = draw(family, level, rng)
        assert problem.answer == solve(problem.text)
        assert problem.answer == str(int(problem.answer))
        assert problem.habit == str(int(problem.habit))
        assert set(problem.text) <= set(train.CHARACTERS)


@pytest.mark.parametrize(
    ("family", "operands", "text", "answer", "habit"),
    [
        ("add", (58, 67), "58+67", 125, 15),
        ("add", (23, 45), "23+45", 68, 68),  # nothing to carry
        ("subtract", (17, 52), "52-17", 35, 45),
        ("subtract", (58, 23), "58-23", 35, 35),  # nothing to borrow
        ("mod", (17, 5), "17 mod 5", 2, 3),
        ("multiply", (12, 7), "12*7", 84, 19),
        ("sort", (8, 3, 9, 1), "sort 8391", 1389, 9831),
        ("sort", (2, 2, 2, 2), "sort 2222", 2222, 2222),
        ("reverse", (4, 7, 2, 1), "reverse 4721", 1274, 4721),
        ("sum3", (12, 3, 4), "12+3+4", 19, 15),
    ],
)
def test_habits_worked_by_hand(family: str, operands: tuple[int, ...], text: str, answer: int, habit: int) -> None:
    rules = FAMILIES[family]
    assert (rules.write(operands), rules.solve(operands), rules.mistake(operands)) == (text, answer, habit)


def test_the_adding_habit_misleads_exactly_where_there_is_a_carry() -> None:
    rng = Random(0)
    verdicts = []
    for _ in range(500):
        problem = draw("add", 3, rng)
        x, y = problem.text.split("+")
        verdicts.append(any(int(a) + int(b) > 9 for a, b in zip(x[1:], y, strict=True)))  # 3 and 2 digits
        assert problem.misleading == verdicts[-1]
    assert 0 < sum(verdicts) < 500


def test_most_problems_can_mislead() -> None:
    problems = distinct(2800, seed=3)
    misleading = Counter(p.family for p in problems if p.misleading)
    assert min(misleading[family] for family in FAMILIES) > 0.4 * 400, misleading


def test_distinct_problems_are_unique_balanced_and_seeded() -> None:
    problems = distinct(1000, seed=7)
    assert len({p.text for p in problems}) == 1000
    per_cell = Counter((p.family, p.level) for p in problems)
    assert set(per_cell) == set(CELLS)
    assert max(per_cell.values()) - min(per_cell.values()) == 1
    assert problems == distinct(1000, seed=7)
    assert problems != distinct(1000, seed=8)
    assert [p.family for p in problems[:50]] != sorted(p.family for p in problems[:50])


def test_a_held_out_set_avoids_the_pool() -> None:
    taken = frozenset(p.text for p in distinct(5000, seed=1))
    assert any(p.text in taken for p in distinct(2000, seed=2))
    assert not any(p.text in taken for p in distinct(2000, seed=2, avoid=taken))


def test_asking_for_more_than_there_is_says_so() -> None:
    everything = frozenset(f"{a} mod {b}" for a in range(10, 100) for b in range(2, 10))
    with pytest.raises(PoolError, match=r"no new 'mod' problem of level 1"):
        distinct(28, seed=0, avoid=everything)
    with pytest.raises(PoolError, match="at least 1, got 0"):
        distinct(0, seed=0)


def test_pool_file(tmp_path: Path) -> None:
    one = write_pool(tmp_path / "one.jsonl", size=300, seed=4)
    rows = [json.loads(line) for line in one.read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == len({row["problem"] for row in rows}) == 300
    assert set(rows[0]) == {"id", "problem", "answer", "family", "level"}
    assert all(row["answer"] == solve(row["problem"]) for row in rows)
    assert one.read_bytes() == write_pool(tmp_path / "two.jsonl", size=300, seed=4).read_bytes()
    assert one.read_bytes() != write_pool(tmp_path / "two.jsonl", size=300, seed=5).read_bytes()


@pytest.fixture(scope="module")
def shipped() -> tuple:
    return AutoModelForCausalLM.from_pretrained(POLICY), AutoTokenizer.from_pretrained(POLICY)


def test_the_shipped_policy_is_small_and_whole(shipped: tuple) -> None:
    model, tokenizer = shipped
    assert sum(file.stat().st_size for file in POLICY.iterdir()) <= 8_000_000
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_the_chat_template_renders_what_training_showed(shipped: tuple) -> None:
    tokenizer = shipped[1]
    user = {"role": "user", "content": "17 mod 5"}
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert prompt == "17 mod 5="
    prompt_ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False) == prompt_ids
    ids, labels = train.encode(train.make_tokenizer(), [("17 mod 5", "2"), ("sort 8391914", "1134899")])
    assert ids[0, : len(prompt_ids)].tolist() == prompt_ids
    spoken = labels[0][labels[0] != -100].tolist()
    assert spoken == [*tokenizer("2")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(labels[1][labels[1] != -100]) == "1134899</s>"


def test_every_problem_survives_the_tokenizer(shipped: tuple) -> None:
    tokenizer = shipped[1]
    for problem in distinct(280, seed=6):
        ids = tokenizer(problem.text)["input_ids"]
        assert tokenizer.decode(ids) == problem.text
        assert len(ids) == len(problem.text)
    assert tokenizer("7 é\n")["input_ids"][2:] == [tokenizer.unk_token_id] * 2


def test_success_rates_fill_the_range(shipped: tuple) -> None:
    torch.manual_seed(0)
    problems = distinct(168, seed=11)
    texts = train.sample(*shipped, problems)
    assert [len(group) for group in texts] == [8] * 168
    right = [group.count(p.answer) for p, group in zip(problems, texts, strict=True)]
    share = {
        name: sum(low <= count <= high for count in right) / len(right)
        for name, low, high in [
            ("never", 0, 0),
            ("low", 1, 2),
            ("half", 3, 5),
            ("high", 6, 7),
            ("always", 8, 8),
        ]
    }
    assert all(value >= 0.07 for value in share.values()), share
    assert 1 - share["never"] - share["always"] >= 0.35, share


def test_training_runs_and_repeats(tmp_path: Path) -> None:
    first = train.train(tmp_path / "first", seed=1, recipe=TINY)
    again = train.train(tmp_path / "again", seed=1, recipe=TINY)
    other = train.train(tmp_path / "other", seed=2, recipe=TINY)
    one, two, three = (torch.cat([w.flatten() for w in model.parameters()]) for model in (first, again, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert torch.equal(one, torch.cat([w.flatten() for w in loaded.parameters()]))
    assert AutoTokenizer.from_pretrained(tmp_path / "first").get_vocab() == train.make_tokenizer().get_vocab()


def test_training_learns() -> None:
    torch.manual_seed(0)
    tokenizer = train.make_tokenizer()
    recipe = replace(TINY, hidden=32, batch=16, skill_steps=150)
    model = train.make_model(tokenizer, recipe)
    loss = train.fit(model, tokenizer, recipe, partial(train.demonstrate, rng=Random(0), habits=False), habits=False)
    assert loss < math.log(10)  # a model that knew only that answers are digits would end here


def test_the_second_phase_shows_habits_at_their_rate() -> None:
    def misled(habits: bool) -> Counter[str]:
        wrong: Counter[str] = Counter()
        for text, response in train.demonstrate(17_000, Random(5), habits):
            if response != solve(text):
                wrong[(re.findall(r"sort|mod|[*-]", text) or ["other"])[0]] += 1
        return wrong

    assert not misled(False)
    wrong = misled(True)
    expected = 1000 * sum(train.HABIT_RATE["sort"]) / 4  # 4 of 68 demonstrations sort; all but ties mislead
    assert abs(wrong["sort"] - expected) < 60
    assert wrong["mod"] == 0
