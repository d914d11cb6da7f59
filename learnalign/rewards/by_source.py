"""A verifier for every source of a pool, as verl chooses its reward by `data_source`.

This module does not judge: the verifiers inside do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learnalign.errors import RewardError
from learnalign.rewards.verdict import Prompt, Verdict, Verifier, check_lengths


class BySourceVerifier(Verifier):
    """Judges a response with the verifier of its prompt's source."""

    def __init__(self, verifiers: Mapping[str, Verifier], of_source: Mapping[str, str]) -> None:
        """verifiers: by their names; of_source: the name of every source's verifier."""
        self.verifiers, self.of_source = verifiers, of_source

    def judge(
        self, responses: Sequence[str], answers: Sequence[str], prompts: Sequence[Prompt] | None = None
    ) -> list[Verdict]:
        """See `Verifier.judge`. Raises `RewardError` for a source without a verifier, or prompts without sources."""
        if prompts is None:
            raise RewardError("reward.by_source needs prompts, whose sources decide: give judge prompts")
        check_lengths(responses, answers, prompts)
        rows_of: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(self._name(prompt), []).append(row)
        found: dict[int, Verdict] = {}
        for name, rows in rows_of.items():
            own = [[column[row] for row in rows] for column in (responses, answers)]
            verdicts = self.verifiers[name].judge(own[0], own[1], [prompts[row] for row in rows])
            found.update(zip(rows, verdicts, strict=True))
        return [found[row] for row in range(len(responses))]

    def notes(self) -> list[str]:
        """Those of the verifiers inside."""
        return [f"{name}: {note}" for name, verifier in self.verifiers.items() for note in verifier.notes()]

    def close(self) -> None:
        """Close the verifiers inside."""
        for verifier in self.verifiers.values():
            verifier.close()

    def _name(self, prompt: Prompt) -> str:
        name = self.of_source.get(prompt.source)
        if name is None:
            raise RewardError(without_verifier(prompt.source, self.of_source))
        return name


def without_verifier(source: str, of_source: Mapping[str, str]) -> str:
    """What to say of a source that no verifier is named for."""
    known = ", ".join(map(repr, of_source))
    return (
        f"no verifier for the source {source!r} (reward.by_source has {known}): name it with "
        f"--set 'reward.by_source.{source or 'SOURCE'}=VERIFIER'"
    )
