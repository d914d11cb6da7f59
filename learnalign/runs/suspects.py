"""The suspects of a run: its prompts, responses and verdicts brought before the signals.

    suspects.jsonl   {prompt_id, row, signal, evidence, answer, problem} a line, in the order of `SIGNALS` and the pool

This module decides nothing: see `learnalign.suspects`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import PoolConfig
from learnalign.errors import RunError
from learnalign.pool import read_pool
from learnalign.rollout.parts import groups
from learnalign.runs.directory import RunDir
from learnalign.suspects import SIGNALS, Suspect
from learnalign.suspects.agreement import Agreement, agreement, disputed
from learnalign.suspects.copies import contradictions, copies_of, text_of
from learnalign.suspects.unreadable import undecided, unreadable

IN_TEXT = ("math", "exact", "choice")
"""Verifiers of answers in text."""


def find_suspects(run: RunDir, against: str = "") -> list[Suspect]:
    """All suspects, in the order of `SIGNALS` and then of the pool.

    against: a pool file, of a test set. Raises `RunError` before responses are judged, `PoolError` for a test set that
    cannot be read. A pool's texts are in memory, and responses of one prompt at a time.
    """
    if run.record("reward").get("state") != "done":
        raise RunError(f"{run.path}: no responses are judged yet; 'learnalign reward {run.path}' does it")
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages", "answer", "source"])
    ids, answers = pool["prompt_id"].to_pylist(), pool["answer"].to_pylist()
    texts = [text_of(*both) for both in zip(pool["problem"].to_pylist(), pool["messages"].to_pylist(), strict=True)]
    place = {prompt_id: k for k, prompt_id in enumerate(ids)}
    found, success_rate = _of_responses(run, pool, place)
    found += contradictions(ids, texts, answers, success_rate)
    of = run.config.reward.verifier_of
    in_text = [k for k, source in enumerate(pool["source"].to_pylist()) if of(source) in IN_TEXT]
    found += unreadable([ids[k] for k in in_text], [answers[k] for k in in_text])
    if against:
        test = read_pool(PoolConfig(path=against), answers=False).prompts
        own = zip(test["problem"].to_pylist(), test["messages"].to_pylist(), strict=True)
        found += copies_of(ids, texts, [text_of(*both) for both in own], Path(against).name)
    order = list(SIGNALS)
    return sorted(found, key=lambda one: (order.index(one.signal), place[one.prompt_id]))


def write_suspects(run: RunDir, found: list[Suspect]) -> Path:
    """Write `suspects.jsonl`, with each prompt's row, answer and problem."""
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "row", "answer", "problem"]).to_pylist()
    known = {prompt["prompt_id"]: prompt for prompt in pool}
    lines = [json.dumps({**one._asdict(), **known[one.prompt_id]}, ensure_ascii=False) for one in found]
    files.write_text(run.path / "suspects.jsonl", "".join(line + "\n" for line in lines))
    return run.path / "suspects.jsonl"


def _of_responses(run: RunDir, pool: pa.Table, place: dict[str, int]) -> tuple[list[Suspect], np.ndarray]:
    """Suspects by their responses, and [N] success rates, NaN without responses."""
    answers, sources = pool["answer"].to_pylist(), pool["source"].to_pylist()
    agreements: list[Agreement] = []
    found: list[Suspect] = []
    success_rate = np.full(len(place), np.nan)
    for prompt_id, texts, correct, how in _judged(run):
        row = place[prompt_id]
        success_rate[row] = np.mean(correct)
        verifier = run.config.reward.verifier_of(sources[row])
        if answers[row] and verifier != "code":
            one = agreement(prompt_id, sources[row], answers[row], texts, correct, verifier)
            agreements += [one] if one else []
        gave_up = undecided(prompt_id, how)
        found += [gave_up] if gave_up else []
    return [*disputed(agreements), *found], success_rate


def _judged(run: RunDir) -> Iterator[tuple[str, list[str], list[bool], list[str]]]:
    """Of every prompt its id, responses, which of them are correct, and what decided."""
    columns = (("prompt_id", "text"), ("correct", "how"))
    for rows in groups((run.path / "rollouts", run.path / "rewards"), columns):
        yield rows["prompt_id"][0].as_py(), *(rows[name].to_pylist() for name in ("text", "correct", "how"))
