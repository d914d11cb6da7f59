"""Makes a run directory of rollouts that were logged elsewhere, so that a run goes on at their rewards and sketches.

Responses are grouped by prompt id where the log has one, else by prompt. With a pool, prompts are found in it by id,
by text, or by what the policy makes of them; what is not in it is left out and counted, and so are the pool's prompts
without responses. Without a pool the logged prompts and answers become one (`imported.jsonl`).

Token ids are taken as they are. Text is encoded with the policy's tokenizer, and the end token, which logs leave out,
is added to every response: for one that was cut off, that is a token too many. Prompts become what the policy saw: chat
messages are rendered, TRL's text is encoded as it stands, a plain problem or what verl logs as the pool's prompt is
rendered. verl's text without a pool is encoded as it stands, without the special tokens that the log lacks.

The directory appears when it is whole. This module does not read files of logs: see `logs`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learnalign import files
from learnalign.config import Config
from learnalign.errors import LogError, RunError
from learnalign.logs.reader import Logged, Tokens, read_logs
from learnalign.policy import Renderer, load_renderer
from learnalign.pool.columns import problem_text
from learnalign.progress import Progress
from learnalign.rollout.parts import part_name
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run, open_run
from learnalign.runs.stages import rollout
from learnalign.schemas import LOGGED_ROLLOUTS, SKIPPED

PART_ROWS = 4096
POOL = "imported.jsonl"
HISTORY = "history.json"


class LoggedGroup(NamedTuple):
    """The logged responses of one prompt of the pool."""

    prompt_id: str
    prompt: Tokens
    responses: list[Logged]


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
    logged = list(read_logs(logs, reward_column, correct_column))
    config = _with_verifier(config, logged)
    partial = directory.with_name(directory.name + files.PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # of an import that was killed
    run = create_run(partial, config)
    try:
        with run.locked():
            _fill(run, logged, progress)
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
    run: RunDir, logs: Iterable[str | Path], policy: Renderer, reward_column: str = "", correct_column: str = ""
) -> list[tuple[int, list[Sampled]]]:
    """Of every logged step of a training, in their order: its number (-1: the log has none), and its responses to
    prompts of the run's pool.

    Where a log has rewards only, those from reward.threshold on are correct. Raises `LogError` for logs without
    rewards or of another pool.
    """
    logged = list(read_logs(logs, reward_column, correct_column))
    if _with_verifier(run.config, logged).reward.verifier != "imported":
        raise LogError("the logs hold no rewards: they cannot tell what the policy has learned")
    groups, _ = _matched(run, _grouped(logged), policy)
    steps: dict[int, list[Sampled]] = {}
    for group in groups:
        for one in group.responses:
            sampled = Sampled(group.prompt_id, group.prompt, one, _correct(one, run.config))
            steps.setdefault(one.step, []).append(sampled)
    return sorted(steps.items())


def _correct(logged: Logged, config: Config) -> bool:
    return logged.correct if logged.correct is not None else (logged.reward or 0.0) >= config.reward.threshold


def _with_verifier(config: Config, logged: list[Logged]) -> Config:
    if not logged:
        raise LogError("the logs hold no responses")
    without = sum(one.reward is None for one in logged)
    if without == len(logged):
        return config
    if without:
        raise LogError(f"{without:,} of {len(logged):,} logged responses have no reward")
    return replace(config, reward=replace(config.reward, verifier="imported"))


def _fill(run: RunDir, logged: list[Logged], progress: Progress) -> None:
    """Do what the stages `pool` and `rollout` would do."""
    grouped = _grouped(logged)
    if not run.config.pool.path:
        _write_pool(run, grouped)
    pipeline.advance(run, "pool", progress)
    policy = load_renderer(run.config.policy)
    groups, left_out = _matched(run, grouped, policy)
    inputs = pipeline.load("rollout").inputs(run)
    run.begin(rollout.NAME, inputs, rollout.PRODUCTS)
    (run.path / "rollouts").mkdir()
    skipped = _write_parts(run, groups, policy)
    files.write_parquet(run.path / "rollouts" / "skipped.parquet", pa.Table.from_pylist(skipped, SKIPPED))
    _write_history(run, groups)
    total = sum(len(group.responses) for group in groups)
    notes = [f"{total:,} responses of {len(groups):,} prompts imported"]
    if left_out:
        notes.append(f"{len(left_out):,} logged prompts are not in the pool, such as {left_out[0]!r:.60}")
    if skipped:
        notes.append(f"{len(skipped):,} prompts of the pool are left out: {skipped[0]['reason']}")
    run.finish(rollout.NAME, total, 0.0, notes, {"imported": True, "skipped": len(skipped)})
    for note in notes:
        progress.say(f"import: {note}")


def _grouped(logged: list[Logged]) -> list[list[Logged]]:
    """Responses of one prompt together, prompts in order of appearance."""
    groups: dict[Any, list[Logged]] = {}
    for one in logged:
        tokens = None if one.prompt_tokens is None else one.prompt_tokens.tobytes()
        key = one.prompt_id or (tokens if one.prompt is None else json.dumps(one.prompt, sort_keys=True))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _write_pool(run: RunDir, grouped: list[list[Logged]]) -> None:
    """A pool of the logged prompts, for runs without one."""
    rows = []
    for number, (first, *_) in enumerate(grouped):
        if first.prompt is None or not first.answer:
            missing = "the prompt's text" if first.prompt is None else "an answer"
            raise LogError(
                f"the logged prompt {first.prompt_id or number!r} has not {missing}: name the pool that it is of "
                "with --pool, so that the selection can be written"
            )
        rows.append({"id": first.prompt_id or str(number), "prompt": first.prompt, "answer": first.answer})
    files.write_text(run.path / POOL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    run.save_config(replace(run.config, pool=replace(run.config.pool, path=str((run.path / POOL).absolute()))))


def _matched(run: RunDir, grouped: list[list[Logged]], policy: Renderer) -> tuple[list[LoggedGroup], list[Any]]:
    """Groups with their prompt of the pool, and what is not in the pool."""
    pool = pq.read_table(run.path / "pool.parquet", columns=["prompt_id", "problem", "messages"]).to_pylist()
    own = run.config.pool.path == str((run.path / POOL).absolute())
    if own:  # the pool is the log's own prompts, in their order
        pairs = [(row, group) for row, group in zip(pool, grouped, strict=True)]
        return [LoggedGroup(row["prompt_id"], _prompt(row, group[0], policy, True), group) for row, group in pairs], []
    find = _Finder(pool, policy)
    found: dict[str, LoggedGroup] = {}
    left_out = []
    for group in grouped:
        row = find(group[0])
        if row is None:
            left_out.append(group[0].prompt_id or group[0].prompt)
        elif row["prompt_id"] in found:
            found[row["prompt_id"]].responses.extend(group)
        else:
            found[row["prompt_id"]] = LoggedGroup(row["prompt_id"], _prompt(row, group[0], policy, False), group)
    if not found:
        raise LogError(
            f"none of the {len(grouped):,} logged prompts is in the pool {run.config.pool.path}, not for example "
            f"{left_out[0]!r:.60}: is it the pool, and --model the policy, that they were logged with?"
        )
    return list(found.values()), left_out


class _Finder:
    """Finds the prompt of the pool that a logged one is: by id, by its text, or by what the policy makes of it."""

    def __init__(self, pool: list[dict[str, Any]], policy: Renderer) -> None:
        self._pool, self._policy = pool, policy
        self._by_id = {row["prompt_id"]: row for row in pool}
        self._by_text: dict[str, dict[str, Any]] = {}
        for row in pool:
            self._by_text.setdefault(row["problem"].strip(), row)
        self._by_rendering: dict[str | bytes, dict[str, Any]] = {}

    def __call__(self, logged: Logged) -> dict[str, Any] | None:
        if logged.prompt_id in self._by_id:
            return self._by_id[logged.prompt_id]
        text = logged.prompt if isinstance(logged.prompt, str) else ""
        if isinstance(logged.prompt, list):
            text = problem_text(logged.prompt)[0]
        found = self._by_text.get(text.strip()) if text else None
        if found is not None:
            return found
        if not self._by_rendering:
            self._render()
        if logged.prompt_tokens is not None:
            return self._by_rendering.get(logged.prompt_tokens.tobytes())
        return self._by_rendering.get(text.strip())

    def _render(self) -> None:
        """Every prompt as token ids, and as text with and without special tokens."""
        for row in self._pool:
            tokens = self._policy.encode(row["problem"], row["messages"])
            texts = (self._policy.decode(tokens), str(self._policy.tokenizer.decode(tokens)))
            self._by_rendering.setdefault(np.array(tokens, np.int32).tobytes(), row)
            for text in texts:
                self._by_rendering.setdefault(text.strip(), row)


def _prompt(row: dict[str, Any], logged: Logged, policy: Renderer, own: bool) -> Tokens:
    """The prompt's token ids, as the policy saw them. `own`: the pool is made of the log."""
    if logged.prompt_tokens is not None:
        return logged.prompt_tokens
    if isinstance(logged.prompt, list):
        tokens = policy.encode(*problem_text(logged.prompt))
    elif logged.form == "literal":
        tokens = policy.tokenizer(logged.prompt)["input_ids"]
    elif logged.form == "decoded" and own:
        tokens = policy.tokenizer(logged.prompt, add_special_tokens=False)["input_ids"]
    else:
        tokens = policy.encode(row["problem"], row["messages"])
    return np.array(tokens, np.int32)


def _write_parts(run: RunDir, groups: list[LoggedGroup], policy: Renderer) -> list[dict[str, str]]:
    """Write the groups as parts; returns the prompts of the pool that are not in them, with the reason."""
    reasons: dict[str, str] = {}
    rows: list[tuple[Any, ...]] = []
    parts = 0
    for group, encoded in _encoded(groups, policy):
        longest = len(group.prompt) + max(len(tokens) for _, tokens in encoded)
        if longest > policy.context:
            reasons[group.prompt_id] = f"{longest:,} tokens are more than the context of {policy.context:,}"
            continue
        if foreign := out_of_range([group.prompt, *(tokens for _, tokens in encoded)], policy):
            reasons[group.prompt_id] = foreign
            continue
        rows += _rows(group, encoded, policy)
        if len(rows) >= PART_ROWS:
            _write_part(run, parts, rows)
            rows, parts = [], parts + 1
    if rows:
        _write_part(run, parts, rows)
    elif parts == 0:
        raise LogError(f"no logged prompt fits the policy; the first: {next(iter(reasons.values()))}")
    imported = {group.prompt_id for group in groups}
    for prompt_id in pq.read_table(run.path / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist():
        if prompt_id not in imported:
            reasons[prompt_id] = "no imported responses"
    return [{"prompt_id": prompt_id, "reason": reason} for prompt_id, reason in reasons.items()]


def _encoded(groups: list[LoggedGroup], policy: Renderer) -> Iterator[tuple[LoggedGroup, list[tuple[Logged, Tokens]]]]:
    """Every group with its responses' token ids; the tokenizer is asked for about `PART_ROWS` responses at once."""
    waiting: list[LoggedGroup] = []
    responses = 0
    for number, group in enumerate(groups, 1):
        waiting.append(group)
        responses += len(group.responses)
        if number < len(groups) and responses < PART_ROWS:
            continue
        tokens = iter(responses_tokens([one for group in waiting for one in group.responses], policy))
        for done in waiting:
            yield done, [(one, next(tokens)) for one in done.responses]
        waiting, responses = [], 0


def _rows(group: LoggedGroup, encoded: list[tuple[Logged, Tokens]], policy: Renderer) -> Iterator[tuple[Any, ...]]:
    """Rows of `schemas.ROLLOUTS`, and the logged reward and verdict."""
    for number, (one, tokens) in enumerate(encoded):
        text = policy.decode(tokens.tolist()) if one.response is None else one.response
        finish = "stop" if int(tokens[-1]) in policy.eos_ids else "length"
        yield (
            *(group.prompt_id, number, group.prompt, tokens, None, len(tokens), text, finish),
            *(one.reward, one.correct),
        )


def response_tokens(logged: Logged, policy: Renderer) -> Tokens:
    """A response as token ids, with its end."""
    return responses_tokens([logged], policy)[0]


def responses_tokens(logged: Sequence[Logged], policy: Renderer) -> list[Tokens]:
    """Responses as token ids, each with its end: those that are text in one call of the tokenizer."""
    texts = [one.response for one in logged if one.tokens is None]
    ids_alone = {"return_attention_mask": False, "return_token_type_ids": False}  # making lists takes most of the time
    encoded = iter(policy.tokenizer(texts, add_special_tokens=False, **ids_alone)["input_ids"] if texts else [])
    return [_ended(next(encoded), policy) if one.tokens is None else one.tokens for one in logged]


def _ended(tokens: list[int], policy: Renderer) -> Tokens:
    if not tokens or tokens[-1] not in policy.eos_ids:
        end = policy.tokenizer.eos_token_id
        tokens = [*tokens, policy.eos_ids[0] if end not in policy.eos_ids else end]
    return np.array(tokens, np.int32)


def out_of_range(texts: Iterable[Tokens], policy: Renderer) -> str:
    """What is wrong with the token ids of a prompt and its responses; empty where the policy's model knows all.

    The model's vocabulary counts, not the tokenizer's: embeddings padded to a round number can be sampled too.
    """
    largest = max(int(tokens.max()) for tokens in texts)
    if largest < policy.vocabulary:
        return ""
    return (
        f"token id {largest} is beyond the {policy.vocabulary:,} tokens that {policy.name!r} knows: "
        "is it the policy that the rollouts were logged with?"
    )


def _write_part(run: RunDir, number: int, rows: list[tuple[Any, ...]]) -> None:
    columns = zip(*rows, strict=True)
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, LOGGED_ROLLOUTS, strict=True)], schema=LOGGED_ROLLOUTS
    )
    files.write_parquet(run.path / "rollouts" / part_name(0, number), table)


def _write_history(run: RunDir, groups: list[LoggedGroup]) -> None:
    """Success rates by step, as `pool.history` reads them, where the log spans several steps."""
    steps = {one.step for group in groups for one in group.responses}
    if len(steps) < 2 or run.config.reward.verifier != "imported":
        return
    histories: dict[str, list[float]] = {}
    for group in groups:
        visits: dict[int, list[bool]] = {}
        for one in group.responses:
            visits.setdefault(one.step, []).append(_correct(one, run.config))
        histories[group.prompt_id] = [sum(visits[step]) / len(visits[step]) for step in sorted(visits)]
    files.write_json(run.path / HISTORY, histories)
