"""How far can each signal of `learnalign suspects` be trusted?

Wrong answers are put into pools whose answers are right, and what a signal lists is counted: precision is the share of
it that is wrong, recall the share of what is wrong that it lists.

    agreement      arithmetic and the demo's policy, which makes the same mistake again and again. Half of the
                   wrong answers are what the family's wrong habit gives, half have one digit changed. With the
                   families as the pool's sources, and without
    gradient       the same pools: gradients against the mean of their family. It is not among the signals, for
                   what it shows here
    contradiction  problems of GSM8K and MATH with another answer and another layout (wrong), and with a number
                   or a word changed (another problem, which is right)
    test set       problems of MATH-500 in another layout or with one word in twenty changed, and with a number
                   changed (another problem)
    unreadable     answers of MATH cut off within their LaTeX, and prose

Data sets are read from LEARNALIGN_DATA (see README).

    python -m bench.suspects runs/suspects [--quick]

Its runs are kept in the folder, and gone on with if it is killed.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from bench.measure import finish
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig
from learnalign.demo.arithmetic import Problem, distinct
from learnalign.demo.run import POLICY
from learnalign.progress import Progress
from learnalign.rollout.parts import groups
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run
from learnalign.runs.suspects import find_suspects
from learnalign.scoring.rows import Rows
from learnalign.store import SketchReader
from learnalign.suspects.agreement import agreement, disputed
from learnalign.suspects.copies import contradictions, copies_of
from learnalign.suspects.unreadable import unreadable

RATES = (0.05, 0.2)
"""Of wrong answers in a pool."""
SEEDS = 3
"""Pools a rate."""
GIVEN = 200
"""Problems or answers that are changed of each text data set."""


class Count(NamedTuple):
    """What a signal listed."""

    listed: int
    right: int
    """Of what was listed: what was to be found."""
    there: int
    """What was to be found."""

    def __add__(self, other: tuple[object, ...]) -> Count:
        return Count(*(a + b for a, b in zip(self, other, strict=True)))  # type: ignore[operator]

    def facts(self) -> dict[str, float | None]:
        """Counts with precision and recall."""
        precision = round(self.right / self.listed, 3) if self.listed else None
        return {**self._asdict(), "precision": precision, "recall": round(self.right / self.there, 3)}


def main() -> None:
    """Every signal, a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="one small pool a rate")
    asked = parser.parse_args()
    data = Path(os.environ.get("LEARNALIGN_DATA") or "/nonexistent")
    if not (data / "math").is_dir():
        sys.exit(
            "bench/suspects.py: set LEARNALIGN_DATA to a folder with gsm8k/ and math/ (see README); nothing was run"
        )
    found: dict[str, Count] = {}
    for rate in RATES:
        for seed in range(1 if asked.quick else SEEDS):
            size = 300 if asked.quick else 1200
            run, wrong = noisy(asked.folder / f"{rate}-{seed}", size, rate, seed)
            for name, count in of_responses(run, wrong).items():
                key = f"{name}, {rate:.0%} wrong"
                found[key] = found.get(key, Count(0, 0, 0)) + count
    found |= of_texts(data)
    for name, count in found.items():
        facts = count.facts()
        print(f"{name:<50} listed {count.listed:>5,}  precision {facts['precision']}  recall {facts['recall']}")
    finish("suspects", {"signals": {name: count.facts() for name, count in found.items()}}, "torch")


def noisy(folder: Path, size: int, rate: float, seed: int) -> tuple[RunDir, set[str]]:
    """A run up to its scores on a pool with wrong answers, and the ids of these."""
    rng = random.Random(seed)
    problems = distinct(size, seed)
    by_habit = rng.sample([k for k, problem in enumerate(problems) if problem.misleading], round(rate / 2 * size))
    others = sorted(set(range(size)) - set(by_habit))
    answers = {k: problems[k].habit for k in by_habit}
    answers |= {k: another_digit(problems[k].answer, rng) for k in rng.sample(others, round(rate / 2 * size))}
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(k, problem, answers.get(k, problem.answer)) for k, problem in enumerate(problems)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    config = Config(
        pool=PoolConfig(path=str(folder / "pool.jsonl")),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, seed=seed),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=size // 10),
    )
    run = create_run(folder / "run", config)
    pipeline.work(run, config, "score", Progress(quiet=True))
    return run, {str(k) for k in answers}


def row(number: int, problem: Problem, answer: str) -> dict[str, str]:
    """A row of the pool, its family as the source."""
    return {"id": str(number), "problem": problem.text, "answer": answer, "source": problem.family}


def another_digit(answer: str, rng: random.Random) -> str:
    """The answer with one digit changed."""
    at = rng.randrange(len(answer))
    return answer[:at] + rng.choice([digit for digit in "123456789" if digit != answer[at]]) + answer[at + 1 :]


def of_responses(run: RunDir, wrong: set[str]) -> dict[str, Count]:
    """The signals that look at responses and gradients."""
    pool = pq.read_table(run.path / "pool.parquet").to_pylist()
    reference = {one["prompt_id"]: one["answer"] for one in pool}
    by_source = {one.prompt_id for one in find_suspects(run) if one.signal == "agreement"}
    agreed = []
    for rows in groups((run.path / "rollouts", run.path / "rewards"), (("prompt_id", "text"), ("correct",))):
        prompt_id = rows["prompt_id"][0].as_py()
        texts, correct = rows["text"].to_pylist(), rows["correct"].to_pylist()
        agreed.append(agreement(prompt_id, "", reference[prompt_id], texts, correct, "exact"))
    without = {one.prompt_id for one in disputed(one for one in agreed if one)}
    against, learnable = pulling(run, {one["prompt_id"]: one["source"] for one in pool})
    return {
        "agreement, families as sources": counted(by_source, wrong),
        "agreement, no sources": counted(without, wrong),
        "gradient against its family, the 20 farthest": counted(set(against[:20]), wrong & learnable),
    }


def counted(listed: set[str], wrong: set[str]) -> Count:
    return Count(len(listed), len(listed & wrong), len(wrong))


def pulling(run: RunDir, source: dict[str, str]) -> tuple[list[str], set[str]]:
    """Prompts with a gradient, those first whose gradient points away most from the mean of their source's others."""
    reader = SketchReader(run.path / "sketches")
    rows = Rows(reader.shards)
    p = reader.success_rate
    z = rows.unit(np.arange(len(rows))) * (p * (1 - p)).astype(np.float32)[:, None]
    of = np.array([source[prompt_id] for prompt_id in reader.prompt_ids])
    pull = np.zeros(len(z))
    for name in set(of.tolist()):
        own = np.flatnonzero(of == name)
        total = z[own].sum(0)
        pull[own] = ((total - z[own]) * z[own]).sum(1) / np.maximum(np.linalg.norm(z[own], axis=1), 1e-30)
    return [reader.prompt_ids[k] for k in np.argsort(pull)], set(reader.prompt_ids)


def of_texts(data: Path) -> dict[str, Count]:
    """The signals that look at problems and answers."""
    rng = random.Random(0)
    gsm8k = [json.loads(line) for line in (data / "gsm8k" / "train.jsonl").open()]
    sums = [(one["question"], one["answer"].rpartition("####")[2].strip().replace(",", "")) for one in gsm8k]
    math = [(one["problem"], one["answer"]) for one in json.loads((data / "math" / "math_train.json").read_text())]
    math = [(problem, answer) for problem, answer in math if answer]
    test = [json.loads(line)["problem"] for line in (data / "math" / "math500.jsonl").open()]
    return {
        "contradiction, GSM8K": contradicting(sums, rng),
        "contradiction, MATH": contradicting(math, rng),
        "test set, MATH-500 in MATH": leaked([problem for problem, _ in math], test, rng),
        "unreadable, MATH": cut_off([answer for _, answer in math], rng),
    }


def contradicting(pool: Sequence[tuple[str, str]], rng: random.Random) -> Count:
    """Copies with a wrong answer among other problems that look alike. A pair is found if one of the two is listed."""
    chosen = rng.sample(range(len(pool)), 3 * GIVEN)
    copies = [(relaid(pool[k][0], rng), pool[k][1] + "7") for k in chosen[:GIVEN]]
    unlike = [(other_number(pool[k][0], rng), pool[k][1] + "7") for k in chosen[GIVEN : 2 * GIVEN]]
    unlike += [(other_words(pool[k][0], 1, rng), pool[k][1] + "7") for k in chosen[2 * GIVEN :]]
    rows = [*pool, *copies, *(one for one in unlike if one[0] not in {text for text, _ in pool})]
    ids = [str(k) for k in range(len(rows))]
    texts, answers = [text for text, _ in rows], [answer for _, answer in rows]
    listed = {int(one.prompt_id) for one in contradictions(ids, texts, answers, np.full(len(ids), np.nan))}
    pairs = {frozenset((k, len(pool) + place)) for place, k in enumerate(chosen[:GIVEN])}
    hit = sum(bool(pair & listed) for pair in pairs)
    astray = len(listed - set().union(*pairs))
    return Count(hit + astray, hit, GIVEN)


def leaked(pool: Sequence[str], test: Sequence[str], rng: random.Random) -> Count:
    """Problems of the test set put into a pool, in another layout or words, or with another number (not a copy)."""
    chosen = rng.sample([text for text in test if len(text.split()) > 9 and re.search(r"\d", text)], 150)
    copies = [relaid(text, rng) for text in chosen[:50]]
    copies += [other_words(text, max(1, len(text.split()) // 20), rng) for text in chosen[50:100]]
    texts = [*pool, *copies, *(other_number(text, rng) for text in chosen[100:])]
    ids = [str(k) for k in range(len(texts))]
    listed = {int(one.prompt_id) for one in copies_of(ids, texts, test, "test")}
    sought = set(range(len(pool), len(pool) + len(copies)))
    return Count(len(listed), len(listed & sought), len(sought))


def cut_off(answers: Sequence[str], rng: random.Random) -> Count:
    """Answers cut within their LaTeX, or drowned in words, among whole ones."""
    long = [k for k, answer in enumerate(answers) if "{" in answer]
    broken = rng.sample(long, GIVEN)
    changed = list(answers)
    for place, k in enumerate(broken):
        brace = answers[k].index("{") + 1
        prose = (
            f"We see that the result has to be {answers[k]}, since all other cases were shown to be impossible above"
        )
        changed[k] = answers[k][:brace] if place % 2 else prose
    listed = {int(one.prompt_id) for one in unreadable([str(k) for k in range(len(changed))], changed)}
    return Count(len(listed), len(listed & set(broken)), len(broken))


def relaid(text: str, rng: random.Random) -> str:
    """Another layout: spaces, case of the first letter, math delimiters, a comma more or less."""
    text = text.replace("  ", " ").replace(", ", " ") if rng.random() < 0.5 else text.replace(" and ", ", and ")
    text = text.replace("$", "") if rng.random() < 0.5 else text
    return "  " + text[:1].lower() + text[1:].replace(". ", ".\n") + " "


def other_number(text: str, rng: random.Random) -> str:
    """One number of the text increased."""
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return other_words(text, 1, rng)
    match = rng.choice(numbers)
    return text[: match.start()] + str(int(match[0]) + 1) + text[match.end() :]


def other_words(text: str, count: int, rng: random.Random) -> str:
    """Words of five letters or more replaced."""
    words = text.split(" ")
    places = [k for k, word in enumerate(words) if word.isalpha() and len(word) > 4]
    for k in rng.sample(places, min(count, len(places))):
        words[k] = rng.choice(("radius", "largest", "remaining", "different", "smallest"))
    return " ".join(words)


if __name__ == "__main__":
    main()
