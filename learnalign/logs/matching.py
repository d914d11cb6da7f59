"""Puts logged responses to their prompts: together by prompt, and to the prompts of a pool.

An id of a log is believed only where the prompt agrees: verl writes one id a response, and others write row numbers of
another file. Together belong responses to the same prompt (and answer); an id is that of its prompt if the two always
come together. In a pool, a prompt is the one with the logged id if the log's text holds that prompt's text, or is its
rendering; otherwise the one with its text or its rendering. Where the log has no prompt, the id decides.
This module reads and writes no files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from learnalign.errors import LogError
from learnalign.logs.record import Logged, Tokens
from learnalign.policy import Renderer
from learnalign.pool.columns import problem_text


class LoggedGroup(NamedTuple):
    """The logged responses of one prompt of the pool."""

    prompt_id: str
    prompt: Tokens
    responses: list[Logged]


def grouped(logged: list[Logged]) -> tuple[list[list[Logged]], list[str]]:
    """Responses of one prompt together, prompts in order of appearance, and a note where ids were of no use.

    Where the ids of a log are not those of its prompts, they are taken away from its responses.
    """
    groups: dict[Any, list[Logged]] = {}
    for one in logged:
        groups.setdefault(prompt_key(one), []).append(one)
    ids = [{one.prompt_id for one in group} for group in groups.values()]
    if not any(len(own) > 1 for own in ids):
        return list(groups.values()), []
    several = next(group for group, own in zip(groups.values(), ids, strict=True) if len(own) > 1)
    distinct = sorted({one.prompt_id for one in several})
    note = (
        f"the ids of the log are not taken: {len(distinct)} of them ({distinct[0]!r:.40}, {distinct[1]!r:.40}, ...) "
        f"have one prompt, {_shown(several[0])!r:.60}; responses are put together by their prompts"
    )
    return [[one._replace(prompt_id="") for one in group] for group in groups.values()], [note]


def by_id_and_prompt(logged: list[Logged]) -> list[list[Logged]]:
    """Responses with the same id and prompt together, in order of appearance."""
    groups: dict[Any, list[Logged]] = {}
    for one in logged:
        groups.setdefault((one.prompt_id, prompt_key(one)), []).append(one)
    return list(groups.values())


def own_ids(groups: list[list[Logged]]) -> tuple[list[str], list[str]]:
    """An id for every group, and a note: the log's, if each is that of one group alone, else numbers."""
    ids = [group[0].prompt_id for group in groups]
    if all(ids) and len(set(ids)) == len(ids):
        return ids, []
    numbers = [str(number) for number in range(len(groups))]
    if not any(ids):
        return numbers, []
    repeated, count = Counter(ids).most_common(1)[0]
    return numbers, [f"the ids of the log are not taken: {repeated!r:.40} has {count:,} different prompts"]


class Finder:
    """Finds the prompt of the pool that a logged one is."""

    def __init__(self, pool: list[dict[str, Any]], policy: Renderer) -> None:
        """pool: rows with prompt_id, problem and messages."""
        self._pool, self._policy = pool, policy
        self._by_id = {row["prompt_id"]: row for row in pool}
        self._by_text: dict[str, dict[str, Any]] = {}
        for row in pool:
            self._by_text.setdefault(row["problem"].strip(), row)
        self._by_rendering: dict[str | bytes, dict[str, Any]] = {}
        self.how: Counter[str] = Counter()
        """How many responses were found by what."""
        self.disagreeing: str = ""
        """A case of an id whose prompt is another one in the pool."""

    def __call__(self, group: list[Logged]) -> dict[str, Any] | None:
        """The prompt of the pool; None where it is not in it."""
        row, how = self._find(group[0])
        self.how[how] += len(group)
        return row

    def notes(self) -> list[str]:
        """What prompts were found by."""
        found = [f"{count:,} by {how}" for how, count in self.how.most_common() if how]
        notes = [f"responses put to the prompts of the pool: {', '.join(found)}"]
        return notes + ([f"ids of the log are not those of the pool: {self.disagreeing}"] if self.disagreeing else [])

    def _find(self, logged: Logged) -> tuple[dict[str, Any] | None, str]:
        text = _text(logged)
        named = self._by_id.get(logged.prompt_id)
        if named is not None:
            if not text and logged.prompt_tokens is None:
                return named, "id alone (the log has no prompts)"
            if self._agrees(named, logged, text):
                return named, "id"
            self.disagreeing = self.disagreeing or (
                f"{logged.prompt_id!r:.40} is {_shown(logged)!r:.50} in the log and {named['problem']!r:.50} in the "
                "pool"
            )
        if text and text in self._by_text:
            return self._by_text[text], "text"
        if not self._by_rendering:
            self._render()
        key = text if logged.prompt_tokens is None else logged.prompt_tokens.tobytes()
        row = self._by_rendering.get(key)
        return row, "rendering" if row else ""

    def _agrees(self, row: dict[str, Any], logged: Logged, text: str) -> bool:
        """Whether the log's prompt holds the text of this one, or is its rendering."""
        if row["problem"].strip() in text:
            return True
        if logged.prompt_tokens is None:
            return False
        rendered = np.array(self._policy.encode(row["problem"], row["messages"], row.get("tools")), np.int32)
        own = self._policy.decode(logged.prompt_tokens.tolist())
        return np.array_equal(rendered, logged.prompt_tokens) or row["problem"].strip() in own

    def _render(self) -> None:
        """Every prompt as token ids, and as text with and without special tokens."""
        for row in self._pool:
            tokens = self._policy.encode(row["problem"], row["messages"], row.get("tools"))
            texts = (self._policy.decode(tokens), str(self._policy.tokenizer.decode(tokens)))
            self._by_rendering.setdefault(np.array(tokens, np.int32).tobytes(), row)
            for text in texts:
                self._by_rendering.setdefault(text.strip(), row)


def check_found(groups: list[Any], left_out: list[Any], finder: Finder, pool: str) -> None:
    """Raise `LogError` where no logged prompt is in the pool."""
    if groups:
        return
    also = f" ({finder.disagreeing})" if finder.disagreeing else ""
    raise LogError(
        f"none of the {len(left_out):,} logged prompts is in the pool {pool}, not for example "
        f"{left_out[0]!r:.60}{also}: is it the pool, and --model the policy, that they were logged with?"
    )


def prompts_tokens(prompts: Sequence[tuple[dict[str, Any], Logged]], policy: Renderer, own: bool) -> list[Tokens]:
    """The token ids of prompts, rows of the pool with a response to each, as the policy saw them.

    own: the pool is made of the log. Texts of one kind are encoded together.
    """
    found: dict[int, Tokens] = {}
    rendered: dict[int, tuple[str, str | None, str | None]] = {}
    literal: dict[bool, dict[int, str]] = {True: {}, False: {}}
    for k, (row, logged) in enumerate(prompts):
        if logged.prompt_tokens is not None:
            found[k] = logged.prompt_tokens
        elif isinstance(logged.prompt, list):
            rendered[k] = (*problem_text(logged.prompt), None)
        elif logged.form == "literal" and logged.prompt:
            literal[True][k] = logged.prompt
        elif logged.form == "decoded" and own:
            literal[False][k] = logged.prompt or ""
        else:
            rendered[k] = (row["problem"], row["messages"], row.get("tools"))
    found |= zip(rendered, policy.encode_all(list(rendered.values())), strict=True)
    for special, texts in literal.items():
        ids = policy.ids(list(texts.values()), special)
        found |= zip(texts, [np.array(tokens, np.int32) for tokens in ids], strict=True)
    return [tokens for _, tokens in sorted(found.items())]


def prompt_key(one: Logged) -> Any:
    """What tells a prompt from others: its tokens, or its text and answer; its id where the log has neither."""
    if one.prompt_tokens is not None:
        return one.prompt_tokens.tobytes()
    if not one.prompt:
        return "id", one.prompt_id
    if isinstance(one.prompt, str):
        return "text", one.prompt, one.answer
    return "messages", json.dumps(one.prompt, sort_keys=True), one.answer


def _text(logged: Logged) -> str:
    """The prompt as text, "" where there is none; of chat messages the last one of the user."""
    if isinstance(logged.prompt, list):
        return problem_text(logged.prompt)[0].strip()
    return (logged.prompt or "").strip()


def _shown(logged: Logged) -> str:
    return _text(logged) or f"{0 if logged.prompt_tokens is None else len(logged.prompt_tokens)} token ids"
