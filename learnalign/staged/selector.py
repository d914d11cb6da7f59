"""Staged selection: choose again as the policy moves, for a fraction of what choosing anew would cost.

One stage (`StagedSelector.update`), for n picks of N prompts and groups of G responses:

1. Age. What earlier stages saw counts `decay` times (see `history`); verdicts on the training's own responses since
   then (`observe`) have come for nothing, the last of a prompt counting most.
2. Screen. `screened` x n prompts answer twice: those of the largest posterior E[p (1 - p)] among the prompts of which
   less than a group is known, and a share `explore` of them at random.
3. Complete. The `completed` x n of the largest E[p (1 - p)] among these answer the rest of G.
4. Sketch. Those with 0 < p < 1 give a gradient.
5. Score. score_i = V_i u_i . mean over j != i of V_j u_j over these gradients: V the posterior mean of p (1 - p), u the
   unit sketch.
6. Pick. n of the prompts with a score > 0, drawn without replacement in proportion to it: where one kind of prompt has
   all the highest scores, the n highest would be of that kind. Where there are fewer, prompts without a score fill up,
   by E[p (1 - p)]: training on them is what the full pool would do, and tells of them for nothing.

All that is chosen here follows from the verdicts, the sketches and (seed, stage). This module loads no policy.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learnalign.config import StageConfig
from learnalign.errors import ArrayError
from learnalign.rows import Integers
from learnalign.staged.agreement import scores
from learnalign.staged.folder import Folder
from learnalign.staged.history import Doubles, History
from learnalign.staged.measurer import Measurer
from learnalign.staged.state import Facts, State, first_state

FIRST = 2
"""Responses that decide which prompts answer the rest of their group."""


class StagedSelector:
    """Keeps what is known of a pool while a policy trains on it, and picks prompts again and again.

    pool: [N] ids of the prompts, all different. n: how many are picked. settings: what a stage may spend. seed: of what
    is drawn. directory: where the state is kept, so that it survives a kill; one that holds a state is taken up.
    threshold: the reward from which on a response is correct.
    Raises `ArrayError` for ids that repeat or an n outside 1..N, `RunError` for the directory of another pool.
    """

    def __init__(
        self,
        pool: Sequence[str],
        n: int,
        *,
        settings: StageConfig | None = None,
        seed: int = 0,
        directory: str | Path | None = None,
        threshold: float = 1.0,
    ) -> None:
        self.ids = list(pool)
        self._at = {prompt_id: k for k, prompt_id in enumerate(self.ids)}
        if len(self._at) != len(self.ids):
            raise ArrayError(f"the ids of a pool must all differ: {len(self.ids) - len(self._at):,} repeat")
        if not self.ids:
            raise ArrayError("the pool is empty: there is nothing to pick from")
        if not 1 <= operator.index(n) <= len(self.ids):
            raise ArrayError(f"n (how many prompts to pick) must lie between 1 and {len(self.ids)}, found {n}")
        self.n, self.seed, self.threshold = n, seed, threshold
        self.settings = settings or StageConfig()
        self._folder = None if directory is None else Folder(Path(directory), self.ids)
        self.state: State = (self._folder and self._folder.read(self.settings.decay)) or first_state(len(self.ids))

    @property
    def stage(self) -> int:
        """How many stages there were."""
        return self.state.stage

    @property
    def picks(self) -> list[str]:
        """Ids of the last stage's picks, in the order in which they were drawn."""
        return [self.ids[k] for k in self.state.picked.tolist()]

    @property
    def observed(self) -> bool:
        """Whether a directory holds verdicts that came after the last stage."""
        return self._folder is not None and self._folder.noted(self.stage)

    def observe(self, ids: Sequence[str], rewards: Sequence[float], step: int | None = None) -> bool:
        """Count responses that the training itself has sampled: a prompt's id and a reward for each.

        Call it once a training step: all that one call tells of a prompt is of one time. Where steps have numbers, one
        that is not later than those counted before is left out, so that logs may be read again. Returns whether the
        responses were counted.

        Raises `ArrayError` for an id that is not in the pool, a reward that is not finite, or unequal lengths.
        """
        values = np.asarray(rewards, np.float64)
        if values.shape != (len(ids),) or not bool(np.isfinite(values).all()):
            raise ArrayError(f"observe needs one finite reward for each of {len(ids)} ids, found {list(rewards)}"[:200])
        unknown = next((prompt_id for prompt_id in ids if prompt_id not in self._at), None)
        if unknown is not None:
            raise ArrayError(f"prompt {unknown!r} is not in the pool of this selector")
        prompts = np.array([self._at[prompt_id] for prompt_id in ids], np.int64)
        correct = values >= self.threshold
        if step is not None and step <= self.state.counted:
            return False
        if self._folder is not None:
            self._folder.note(self.stage, prompts, correct, step)
        self.state.history.follow(prompts, correct, self.settings.decay)
        if step is not None:
            self.state = self.state._replace(counted=step)
        return True

    def update(self, policy: Measurer) -> list[str]:
        """One stage: measure where it pays, and pick again. Returns the ids of the picks.

        The selector changes only when all of it is done, and with a directory its new state is on the disk first.
        """
        settings, rng = self.settings, np.random.default_rng([self.seed, self.stage])
        rest = self.settings.responses - FIRST
        history = self.state.history.aged(settings.decay)
        screened = self._screened(history, rng)
        history.add(screened, policy.respond(screened, FIRST), FIRST)
        completed = np.sort(_largest(history.promise(), screened, round(settings.completed * self.n)))
        history.add(completed, policy.respond(completed, rest), rest)
        learnable, phi = policy.sketch(completed)
        value = history.promise()
        score = np.zeros(len(self.ids))
        score[learnable] = scores(phi, value[learnable])
        facts = Facts(
            screened=len(screened),
            responses=FIRST * len(screened) + rest * len(completed),
            gradients=len(learnable),
            score_above_zero=int(np.count_nonzero(score > 0)),
        )
        picked = _draw(score, value, self.n, rng)
        after = State(self.stage + 1, history, score, picked, facts, self.state.counted)
        if self._folder is not None:
            self._folder.write(after)
        self.state = after
        return self.picks

    def _screened(self, history: History, rng: np.random.Generator) -> Integers:
        """Positions of the prompts that answer twice, rising."""
        size = len(self.ids)
        count = min(size, round(self.settings.screened * self.n))
        unknown = np.flatnonzero(history.responses < self.settings.responses)
        by_promise = _largest(history.promise(), rng.permutation(unknown), count - round(self.settings.explore * count))
        others = np.setdiff1d(np.arange(size), by_promise)
        drawn = rng.choice(others, min(len(others), count - len(by_promise)), replace=False)
        return np.sort(np.concatenate([by_promise, drawn]))


def _largest(value: Doubles, among: Integers, count: int) -> Integers:
    """The `count` of `among` with the largest value; of equals the first."""
    return among[np.argsort(-value[among], kind="stable")[:count]]


def _draw(score: Doubles, promise: Doubles, n: int, rng: np.random.Generator) -> Integers:
    """n prompts of score > 0, without replacement in proportion to it; then those without a score that promise most,
    of equals random ones; last those whose gradients disagree with the others'.

    The n largest log(score) + Gumbel noise are such a draw (Efraimidis and Spirakis, 2006, in another form).
    """
    noise = rng.gumbel(size=len(score))
    positive = np.flatnonzero(score > 0)
    drawn = positive[np.argsort(-(np.log(score[positive]) + noise[positive]), kind="stable")[:n]]
    others = rng.permutation(np.flatnonzero(score <= 0))
    others = others[np.lexsort((-promise[others], score[others] < 0))]
    return np.concatenate([drawn, others])[:n]
