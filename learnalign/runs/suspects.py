"""The suspects of a run: its prompts, responses and verdicts brought before the signals.

    suspects.jsonl   {prompt_id, row, signal, evidence, answer, problem} a line, in the order of `SIGNALS` and the pool

This module decides nothing: see `learnalign.suspects`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import PoolConfig
from learnalign.errors import RunError
from learnalign.pool import read_pool
from learnalign.rollout.parts import all_parts, read_parts, rows_of
from learnalign.runs.directory import RunDir
from learnalign.suspects import SIGNALS, Suspect
from learnalign.suspects.agreement import Agreement, agree, agreement, disputed
from learnalign.suspects.copies import contradictions, copies_of, text_of
from learnalign.suspects.unreadable import GAVE_UP, undecided, unreadable

IN_TEXT = ("math", "exact", "choice")
"""Verifiers of answers in text."""
PARTS = 1024
"""Files of verdicts that are counted together."""


def find_suspects(run: RunDir, against: str = "") -> list[Suspect]:
    """All suspects, in the order of `SIGNALS` and then of the pool.

    against: a pool file, of a test set. Raises `RunError` before responses are judged, `PoolError` for a test set that
    cannot be read. A pool's texts are in memory; responses are
    read where an agreement on a wrong answer is possible, part by part.
    """
    if run.record("reward").get("state") != "done":
        raise RunError(f"{run.path}: no responses are judged yet; 'learnalign reward {run.path}' does it")
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages", "answer", "source"])
    ids, answers = pool["prompt_id"].to_pylist(), pool["answer"].to_pylist()
    texts = [text_of(*both) for both in zip(pool["problem"].to_pylist(), pool["messages"].to_pylist(), strict=True)]
    place = dict(zip(ids, range(len(ids)), strict=True))
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


class _Judged(NamedTuple):
    """What is known of the responses to every prompt of the pool, [N]."""

    sampled: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    lost: dict[int, Counter[str]]
    """Of a prompt, by its number, how many responses had which verdict that says nothing of them."""
    parts: list[tuple[Path, npt.NDArray[np.int32], npt.NDArray[np.bool_]]]
    """Of every part of rollouts: its file, the number of each response's prompt, and whether it is correct."""


def _judged(run: RunDir, place: dict[str, int]) -> _Judged:
    """Verdicts of all parts. Raises `RunError` for responses to prompts that are not in the pool."""
    found = _Judged(np.zeros(len(place), np.int64), np.zeros(len(place), np.int64), {}, [])
    files_of = all_parts(run.path / "rollouts")
    for some in (files_of[start : start + PARTS] for start in range(0, len(files_of), PARTS)):
        verdicts = [read_parts([run.path / "rewards" / part.name], ["prompt_id", "correct", "how"]) for part in some]
        table = pa.concat_tables(verdicts)
        row = rows_of(table["prompt_id"], place)
        if row is None:
            raise RunError(
                f"the responses of {run.path / 'rollouts'} are not those of the pool: delete the folder, and "
                f"{run.path / 'rewards'}, and run the same command again"
            )
        correct = table["correct"].to_numpy()
        found.sampled[:] += np.bincount(row, minlength=len(place))
        found.right[:] += np.bincount(row[correct], minlength=len(place))
        lost = np.flatnonzero(pc.is_in(table["how"], pa.array(list(GAVE_UP))).to_numpy())
        for prompt, how in zip(row[lost].tolist(), table["how"].take(lost).to_pylist(), strict=True):
            found.lost.setdefault(prompt, Counter())[how] += 1
        ends = np.cumsum([len(verdict) for verdict in verdicts])[:-1]
        found.parts.extend(zip(some, np.split(row.astype(np.int32), ends), np.split(correct, ends), strict=True))
    return found


def _of_responses(run: RunDir, pool: pa.Table, place: dict[str, int]) -> tuple[list[Suspect], npt.NDArray[np.float64]]:
    """Suspects by their responses, and [N] success rates, NaN without responses."""
    ids, answers, sources = (pool[name].to_pylist() for name in ("prompt_id", "answer", "source"))
    verifier = [run.config.reward.verifier_of(source) for source in sources]
    judged = _judged(run, place)
    sampled, right = judged.sampled, judged.right
    comparable = np.array([bool(a) and v != "code" for a, v in zip(answers, verifier, strict=True)], np.bool_)
    agreements = [
        Agreement(ids[k], sources[k], int(sampled[k]), int(right[k]), "")
        for k in np.flatnonzero(comparable & agree(right, sampled))
    ]
    wanted = comparable & agree(sampled - right, sampled)
    for k, texts, correct in _texts(judged, wanted):
        one = agreement(ids[k], sources[k], answers[k], texts, correct, verifier[k])
        agreements += [one] if one else []
    gave_up = [undecided(ids[k], counts, int(sampled[k])) for k, counts in judged.lost.items()]
    success_rate = np.divide(right, sampled, out=np.full(len(ids), np.nan), where=sampled > 0)
    return [*disputed(agreements), *(one for one in gave_up if one)], success_rate


def _texts(judged: _Judged, wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, list[str], list[bool]]]:
    """(number, responses, which of them are correct) of the prompts that are wanted; only their parts are read."""
    waiting: dict[int, tuple[list[str], list[bool]]] = {}
    for part, row, correct in judged.parts:
        own = np.flatnonzero(wanted[row])
        if not len(own):
            continue
        texts = read_parts([part], ["text"])["text"].take(own).to_pylist()
        for k, text, right in zip(row[own].tolist(), texts, correct[own].tolist(), strict=True):
            of_prompt = waiting.setdefault(k, ([], []))
            of_prompt[0].append(text)
            of_prompt[1].append(right)
            if len(of_prompt[0]) == judged.sampled[k]:
                yield k, *waiting.pop(k)
