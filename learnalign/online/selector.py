"""Online selection: choose again as the policy moves, and let the training's own responses pay for it.

Nothing is sampled to select. Training on a pick gives a group of responses, and these tell what is needed: their
verdicts (`observe`) the success rate, one correct and one incorrect of them the gradient (see `pairs`). An update
(`OnlineSelector.update`) comes when training has gone through the n picks about once:

1. Age. What is known of success rates and of the shared gradient counts `memory` times what it did.
2. Sketch. Prompts that training met for the first time since the last update, and answered in both ways.
3. Compare. agreement_i = u_i . mean over j != i of V_j u_j over these gradients and, with discounts, those of earlier
   updates: V the posterior mean of p (1 - p), u the unit sketch. Wrong reference answers pull against the others.
4. Pick. First the prompts of agreement > 0 that training has met less than `visits` times and promise more than an
   unknown one, drawn without replacement in proportion to V_i agreement_i. Then, by what they promise, what training
   has not met yet: exploring is training on the pool as it comes. Last the prompts whose gradients disagree.

So a prompt that is good is trained on a few times in a row, one that is not once. Longer repetition does not pay: what
stays unsolved after some visits is more and more often what cannot be learned.

All that is chosen here follows from the verdicts, the sketches and (seed, update). This module loads no policy.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from learnalign.config import OnlineConfig
from learnalign.errors import ArrayError, RunError
from learnalign.online.agreement import compare
from learnalign.online.folder import Folder
from learnalign.online.history import Doubles, History
from learnalign.online.measurer import Measurer
from learnalign.online.state import Facts, State, first_state
from learnalign.rewards.verdict import is_correct
from learnalign.scoring.rows import Integers


class OnlineSelector:
    """Keeps what is known of a pool while a policy trains on it, and picks prompts again and again.

    pool: [N] ids of the prompts, all different as text. n: how many are picked. settings: what an update may spend.
    seed: of what is drawn. directory: where the state is kept, so that it survives a kill; one that holds a state is
    taken up. threshold: the reward from which on a response is correct.
    Raises `ArrayError` for ids that repeat or an n outside 1..N, `RunError` for the directory of another pool.
    """

    def __init__(
        self,
        pool: Sequence[str | int],
        n: int,
        *,
        settings: OnlineConfig | None = None,
        seed: int = 0,
        directory: str | Path | None = None,
        threshold: float = 1.0,
    ) -> None:
        self.ids = [str(prompt_id) for prompt_id in pool]
        self._at = {prompt_id: k for k, prompt_id in enumerate(self.ids)}
        if len(self._at) != len(self.ids):
            raise ArrayError(f"the ids of a pool must all differ: {len(self.ids) - len(self._at):,} repeat")
        if not self.ids:
            raise ArrayError("the pool is empty: there is nothing to pick from")
        if not 1 <= operator.index(n) <= len(self.ids):
            raise ArrayError(f"n (how many prompts to pick) must lie between 1 and {len(self.ids)}, found {n}")
        self.n, self.seed, self.threshold = n, seed, threshold
        self.settings = settings or OnlineConfig()
        self._folder = None if directory is None else Folder(Path(directory), self.ids)
        self.state: State = (self._folder and self._folder.read(self.settings.decay)) or first_state(len(self.ids))

    @property
    def updates(self) -> int:
        """How many updates there were."""
        return self.state.updates

    @property
    def picks(self) -> list[str]:
        """Ids of the last update's picks, in the order in which they were drawn."""
        return [self.ids[k] for k in self.state.picked.tolist()]

    @property
    def observed(self) -> bool:
        """Whether a directory holds verdicts that came after the last update."""
        return self._folder is not None and self._folder.noted(self.updates)

    def observe(self, ids: Sequence[str | int], rewards: Sequence[float], step: int | None = None) -> bool:
        """Count responses that the training itself has sampled: a prompt's id and a reward for each.

        Call it once a training step: all that one call tells of a prompt is of one time. Where steps have numbers, one
        that is not later than those counted before is left out, so that logs may be read again. Returns whether the
        responses were counted.

        Raises `ArrayError` for an id that is not in the pool, a reward that is not finite, or unequal lengths.
        """
        values = np.asarray(rewards, np.float64)
        if values.shape != (len(ids),) or not bool(np.isfinite(values).all()):
            raise ArrayError(f"observe needs one finite reward for each of {len(ids)} ids, found {list(rewards)}"[:200])
        unknown = next((prompt_id for prompt_id in ids if str(prompt_id) not in self._at), None)
        if unknown is not None:
            raise ArrayError(f"prompt {unknown!r} is not in the pool of this selector")
        prompts = np.array([self._at[str(prompt_id)] for prompt_id in ids], np.int64)
        correct = np.array([is_correct(value, self.threshold) for value in values.tolist()], np.bool_)
        if step is not None and step <= self.state.counted:
            return False
        if self._folder is not None:
            self._folder.note(self.updates, prompts, correct, step)
        self.state.history.follow(prompts, correct, self.settings.decay)
        if step is not None:
            self.state = self.state._replace(counted=step)
        return True

    def save(self, path: str | Path) -> None:
        """Write all that is known to another directory, such as a trainer's checkpoint. Raises `RunError`."""
        Folder(Path(path), self.ids).write(self.state)

    def restore(self, path: str | Path) -> None:
        """Know what was saved in `path`, and nothing that came after it, in the selector's own directory too.

        Raises `RunError` for a directory that holds nothing, or the updates of another pool.
        """
        state = Folder(Path(path), self.ids).read(self.settings.decay)
        if state is None:
            raise RunError(f"{path} holds no state of an online selection")
        if self._folder is not None:
            self._folder.write(state)
        self.state = state

    def update(self, policy: Measurer) -> list[str]:
        """One update: compare the gradients of what training has met, and pick again. Returns the ids of the picks.

        The selector changes only when all of it is done, and with a directory its new state is on the disk first.
        """
        before, memory = self.state, self.settings.memory
        history, shared, agreement = before.history.aged(memory), before.shared.aged(memory), before.agreement.copy()
        met = np.flatnonzero((history.visits > 0) & np.isnan(agreement))
        if len(met):
            sketched, phi = policy.sketch(met)
            agreement[sketched], shared = compare(shared, phi, history.expected_learnability()[sketched])
        good = self._good(history, agreement)
        picked = self._draw(history, agreement, good)
        facts = Facts(
            gradients=int(np.isnan(before.agreement).sum() - np.isnan(agreement).sum()),
            agreeing=int(good[picked].sum()),
            unseen=int((history.visits[picked] == 0).sum()),
        )
        after = State(self.updates + 1, history, agreement, shared, picked, facts, before.counted)
        if self._folder is not None:
            self._folder.write(after)
        self.state = after
        return self.picks

    def _good(self, history: History, agreement: Doubles) -> npt.NDArray[np.bool_]:
        """[N] what training should come back to."""
        promising = history.expected_learnability() > history.prior_expected_learnability()
        good: npt.NDArray[np.bool_] = (agreement > 0) & promising & (history.visits < self.settings.visits)
        return good

    def _draw(self, history: History, agreement: Doubles, good: npt.NDArray[np.bool_]) -> Integers:
        """n prompts: good ones, without replacement in proportion to their score; then the others by what they promise,
        which every visit multiplies by `decay`, of equals random ones; those that disagree last.

        The n largest log(score) + Gumbel noise are such a draw (Efraimidis and Spirakis, 2006, in another form).
        """
        rng, expected = np.random.default_rng([self.seed, self.updates]), history.expected_learnability()
        noise, likely = rng.gumbel(size=len(good)), np.flatnonzero(good)
        chance = np.log(expected[likely] * agreement[likely]) + noise[likely]
        drawn = likely[np.argsort(-chance, kind="stable")]
        others = rng.permutation(np.flatnonzero(~good))
        rank = expected[others] * self.settings.decay ** history.visits[others]
        others = others[np.lexsort((-rank, agreement[others] < 0))]
        return np.concatenate([drawn, others])[: self.n]
