"""Makes a run directory of rollouts that were logged elsewhere, so that a run goes on at their rewards and sketches.

Responses are put together by prompt (see `matching`). With a pool, prompts are found in it by id, by text, or by
what the policy makes of them; what is not in it is left out and counted, and so are the pool's prompts without
responses. Without a pool the logged prompts and answers become one (`imported.jsonl`).

Token ids are taken as they are. Text is encoded with the policy's tokenizer, and the end token, which logs leave out,
is added to every response: for one that was cut off, that is a token too many. Prompts become what the policy saw: chat
messages are rendered, TRL's text is encoded as it stands, a plain problem or what verl logs as the pool's prompt is
rendered. verl's text without a pool is encoded as it stands, without the special tokens that the log lacks.

The directory appears when it is whole. This module does not read files of logs: see `reader`.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import Config
from learnalign.errors import LogError, RunError
from learnalign.logs.correct import checked, counts_as_correct
from learnalign.logs.matching import (
    Finder,
    LoggedGroup,
    by_id_and_prompt,
    check_found,
    grouped,
    own_ids,
    prompts_tokens,
)
from learnalign.logs.parts import write_parts
from learnalign.logs.reader import read_logs
from learnalign.logs.record import Logged, Tokens
from learnalign.policy import Renderer, load_renderer
from learnalign.pool import stored_prompts
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run, open_run
from learnalign.runs.stages import rollout
from learnalign.schemas import SKIPPED

POOL = "imported.jsonl"
HISTORY = "history.json"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: a log makes many objects and no cycles, and looking for some takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def import_rollouts(
    directory: str | Path,
    logs: Iterable[str | Path],
    config: Config,
    progress: Progress,
    *,
    reward_column: str = "",
    correct_column: str = "",
) -> RunDir:
    """Make the run directory; stages `pool` and `rollout` are done in it.

    Its `reward.verifier` is `imported` if the log has rewards. Raises `LogError`, and whatever the pool and the
    policy raise; then there is no directory.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} exists: name a new directory for imported rollouts")
    notes: list[str] = []
    logged = list(read_logs(logs, reward_column, correct_column, config.reward.threshold, notes))
    config = _with_verifier(config, logged)
    if config.reward.verifier == "imported":
        notes.append(checked(logged, config.reward.threshold, bool(correct_column), config.reward.graded))
    partial = directory.with_name(directory.name + files.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # of an import that was killed
    run = create_run(partial, config)
    try:
        with run.locked():
            _fill(run, logged, notes, progress)
        if run.config.pool.path == str((partial / POOL).absolute()):
            pool = replace(run.config.pool, path=str((directory / POOL).absolute()))
            run.save_config(replace(run.config, pool=pool))
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return open_run(directory)


class Sampled(NamedTuple):
    """A logged response to a prompt of the pool."""

    prompt_id: str
    prompt: Tokens
    logged: Logged
    correct: bool


def logged_steps(
    run: RunDir,
    logs: Iterable[str | Path],
    policy: Renderer,
    reward_column: str = "",
    correct_column: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> list[tuple[int, list[Sampled]]]:
    """Of every logged step of a training, in their order: its number (-1: the log has none), and its responses to
    prompts of the run's pool.

    Where a log has rewards only, those from reward.threshold on are correct. say: takes a line about what is left out.
    Raises `LogError` for logs without rewards or of another pool.
    """
    logged = list(read_logs(logs, reward_column, correct_column, run.config.reward.threshold))
    if _with_verifier(run.config, logged).reward.verifier != "imported":
        raise LogError("the logs hold no rewards: they cannot tell what the policy has learned")
    checked(logged, run.config.reward.threshold, bool(correct_column))
    groups, left_out, notes = _matched(run, logged, policy)
    if left_out:
        lost = len(logged) - sum(len(group.responses) for group in groups)
        notes.append(
            f"{lost:,} of {len(logged):,} logged responses belong to no prompt of the pool, such as {left_out[0]!r:.60}"
        )
    for note in notes:
        say(note)
    steps: dict[int, list[Sampled]] = {}
    for group in groups:
        for one in group.responses:
            correct = counts_as_correct(one, run.config.reward.threshold)
            sampled = Sampled(group.prompt_id, group.prompt, one, correct)
            steps.setdefault(one.step, []).append(sampled)
    return sorted(steps.items())


def _with_verifier(config: Config, logged: list[Logged]) -> Config:
    if not logged:
        raise LogError("the logs hold no responses")
    without = sum(one.reward is None for one in logged)
    if without == len(logged):
        return config
    if without:
        raise LogError(f"{without:,} of {len(logged):,} logged responses have no reward")
    return replace(config, reward=replace(config.reward, verifier="imported", by_source={}))


def _fill(run: RunDir, logged: list[Logged], notes: list[str], progress: Progress) -> None:
    """Do what the stages `pool` and `rollout` would do."""
    own: list[list[Logged]] = []
    left_out: list[Any] = []
    if not run.config.pool.path:
        own, said = grouped(logged)
        notes += [*said, *_write_pool(run, own)]
    pipeline.advance(run, "pool", progress)
    policy = load_renderer(run.config.policy)
    if own:
        groups = _own_groups(run, own, policy)
    else:
        groups, left_out, said = _matched(run, logged, policy)
        notes += said
    inputs = pipeline.load("rollout").inputs(run)
    run.begin(rollout.NAME, inputs, rollout.PRODUCTS)
    (run.path / "rollouts").mkdir()
    skipped = _skipped(run, groups, write_parts(run.path / "rollouts", groups, policy))
    files.write_parquet(run.path / "rollouts" / "skipped.parquet", pa.Table.from_pylist(skipped, SKIPPED))
    _write_history(run, groups)
    total = sum(len(group.responses) for group in groups)
    notes = [f"{total:,} responses of {len(groups):,} prompts imported", *notes]
    if left_out:
        notes.append(f"{len(left_out):,} logged prompts are not in the pool, such as {left_out[0]!r:.60}")
    if skipped:
        notes.append(f"{len(skipped):,} prompts of the pool are left out: {skipped[0]['reason']}")
    run.finish(rollout.NAME, total, 0.0, notes, {"imported": True, "skipped": len(skipped)})
    for note in notes:
        progress.say(f"import: {note}")


def _write_pool(run: RunDir, groups: list[list[Logged]]) -> list[str]:
    """A pool of the logged prompts, for runs without one; returns what a person should know of it."""
    rows = []
    ids, notes = own_ids(groups)
    for prompt_id, (first, *_) in zip(ids, groups, strict=True):
        if not first.prompt or not first.answer:
            missing = "an answer" if first.prompt else "the prompt's text"
            raise LogError(
                f"the logged prompt {prompt_id!r} has not {missing}: name the pool that it is of "
                "with --pool, so that the selection can be written"
            )
        rows.append({"id": prompt_id, "prompt": first.prompt, "answer": first.answer})
    files.write_text(run.path / POOL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    run.save_config(replace(run.config, pool=replace(run.config.pool, path=str((run.path / POOL).absolute()))))
    return notes


def _matched(run: RunDir, logged: list[Logged], policy: Renderer) -> tuple[list[LoggedGroup], list[Any], list[str]]:
    """Groups with their prompt of the pool, what is not in the pool, and what a person should know of it."""
    pool = stored_prompts(run.path / "pool.parquet", ["prompt_id", "problem", "messages"]).to_pylist()
    find = Finder(pool, policy)
    found: dict[str, tuple[dict[str, Any], list[Logged]]] = {}
    left_out: list[Any] = []
    for group in by_id_and_prompt(logged):
        row = find(group)
        if row is None:
            left_out.append(group[0].prompt_id or group[0].prompt)
        elif row["prompt_id"] in found:
            found[row["prompt_id"]][1].extend(group)
        else:
            found[row["prompt_id"]] = (row, group)
    check_found(list(found), left_out, find, str(run.config.pool.path))
    return _with_tokens(list(found.values()), policy, False), left_out, find.notes()


def _own_groups(run: RunDir, groups: list[list[Logged]], policy: Renderer) -> list[LoggedGroup]:
    """The groups that the pool was made of, in its order."""
    pool = stored_prompts(run.path / "pool.parquet", ["prompt_id", "problem", "messages"]).to_pylist()
    return _with_tokens(list(zip(pool, groups, strict=True)), policy, True)


def _with_tokens(found: list[tuple[dict[str, Any], list[Logged]]], policy: Renderer, own: bool) -> list[LoggedGroup]:
    """Rows of the pool with their responses, and the prompt's token ids."""
    prompts = prompts_tokens([(row, group[0]) for row, group in found], policy, own)
    return [LoggedGroup(row["prompt_id"], prompt, group) for (row, group), prompt in zip(found, prompts, strict=True)]


def _skipped(run: RunDir, groups: list[LoggedGroup], reasons: dict[str, str]) -> list[dict[str, str]]:
    """The prompts of the pool that are not in the parts, with the reason; reasons: of those that the policy refuses."""
    imported = {group.prompt_id for group in groups}
    for prompt_id in pq.read_table(run.path / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist():
        if prompt_id not in imported:
            reasons[prompt_id] = "no imported responses"
    return [{"prompt_id": prompt_id, "reason": reason} for prompt_id, reason in reasons.items()]


def _write_history(run: RunDir, groups: list[LoggedGroup]) -> None:
    """Success rates by step, as `pool.history` reads them, where the log spans several steps."""
    steps = {one.step for group in groups for one in group.responses}
    if len(steps) < 2 or run.config.reward.verifier != "imported":
        return
    histories: dict[str, list[float]] = {}
    for group in groups:
        visits: dict[int, list[bool]] = {}
        for one in group.responses:
            visits.setdefault(one.step, []).append(counts_as_correct(one, run.config.reward.threshold))
        histories[group.prompt_id] = [sum(visits[step]) / len(visits[step]) for step in sorted(visits)]
    files.write_json(run.path / HISTORY, histories)
