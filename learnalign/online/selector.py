"""Online selection: training goes over the whole pool, and comes back later to what teaches nothing.

Nothing is sampled to select. Training on a prompt gives a group of responses, whose verdicts (`observe`) tell its
success rate; from that follows its weight, visits a pass (see `weights`), and from the weight when its turn comes again
(see `schedule`). As long as nothing is known, and where all prompts teach, it is a pass over the pool in random order
and then another. A weight is computed when a prompt is observed or measured, and not when only the pool's mean moves.

Gradients are optional: `measure` takes one correct and one incorrect response of what training met (see `pairs`) and
compares: agreement_i = u_i . mean over j != i of V_j u_j over these gradients and, with discounts, earlier ones; V the
posterior mean of p (1 - p), u the unit sketch. Wrong reference answers pull against the others.

    selector = OnlineSelector(ids, directory="online")
    for step in range(steps):
        batch = selector.next(64)
        ...                                  # sample a group of each, judge, train
        selector.observe(ids_of_responses, rewards)

All that is chosen follows from the verdicts, the sketches and the seed. This module loads no policy.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learnalign.config import OnlineConfig
from learnalign.errors import ArrayError, ConfigError, RunError
from learnalign.online.folder import Folder
from learnalign.online.known import Known, Line, State
from learnalign.online.measurer import Measurer
from learnalign.rewards.verdict import least_correct

LEAST_LOG = 10_000
"""Prompts that a log may name before a state takes its place; of a larger pool, two passes."""


class OnlineSelector:
    """Keeps what is known of a pool while a policy trains on it, and says which prompts come next.

    pool: [N] ids of the prompts, all different as text. settings: how weights follow from verdicts. seed: of random
    order; at least 0. directory: where the state is kept, so that it survives a kill; one that holds a state is taken
    up, its seed with it. threshold: the reward from which on a response is correct.
    Raises `ArrayError` for no ids or ids that repeat, `ConfigError` for a negative seed, `RunError` for the directory
    of another pool.
    """

    def __init__(
        self,
        pool: Sequence[str | int],
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
        if operator.index(seed) < 0:
            raise ConfigError(f"the seed of an online selection must be at least 0, found {seed}")
        self.threshold, self.settings = threshold, settings or OnlineConfig()
        self.known = Known(len(self.ids), operator.index(seed), self.settings)
        self._logged = 0
        """Prompts that the log names."""
        self._folder = None if directory is None else Folder(Path(directory))
        if self._folder is not None and self._folder.begun:
            self._load(*self._folder.read(), self._folder.path)

    def next(self, n: int) -> list[str]:
        """Ids of the next n prompts to train on, all different. Raises `ArrayError` for an n outside 1..N."""
        if not 1 <= operator.index(n) <= len(self.ids):
            raise ArrayError(f"n (how many prompts to pick) must lie between 1 and {len(self.ids)}, found {n}")
        prompts = self.known.schedule.first(n)
        self._apply({"taken": prompts.tolist()})
        return [self.ids[k] for k in prompts.tolist()]

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
        try:
            prompts = [self._at[str(prompt_id)] for prompt_id in ids]
        except KeyError as error:
            raise ArrayError(f"prompt {error} is not in the pool of this selector") from None
        if step is not None and step <= self.known.counted:
            return False
        met, group = np.unique(np.array(prompts, np.int64), return_inverse=True)
        correct = values >= least_correct(self.threshold)
        line = {
            "prompts": met.tolist(),
            "correct": np.bincount(group, correct, len(met)).astype(np.int64).tolist(),
            "responses": np.bincount(group, minlength=len(met)).tolist(),
        }
        self._apply(line if step is None else {**line, "step": step})
        return True

    def measure(self, policy: Measurer) -> int:
        """Compare the gradients of what training met since the last measurement. Returns how many could be compared.

        A prompt may be measured again at every visit. The selector changes only when all of it is done; with a
        directory its state is then written. Costs O(N) beside the gradients.
        """
        met = np.flatnonzero(self.known.unmeasured)
        if not len(met):
            return 0
        compared = self.known.compare(*policy.sketch(met))
        self._write()
        return compared

    def state_dict(self) -> State:
        """All that is known, to go on from: numbers, text, and arrays as bytes in NumPy's .npy format.

        Any pickle, `torch.save` and `torch.load` hold it. Ids, settings and threshold stay the caller's.
        """
        return {"pool": self._digest(), **self.known.dump()}

    def load_state_dict(self, state: State) -> None:
        """Know what `state_dict` gave, and nothing that came after it, in the selector's own directory too.

        Raises `RunError` for the state of another pool, or one that is none.
        """
        self._load(state, [], "this state of an online selection")
        self._write()

    def save(self, path: str | Path) -> None:
        """Write all that is known to another directory, such as a trainer's checkpoint. Raises `RunError`."""
        Folder(Path(path)).write(self.state_dict())

    def restore(self, path: str | Path) -> None:
        """Know what was saved in `path`, and nothing that came after it, in the selector's own directory too.

        Raises `RunError` for a directory that holds nothing, or the state of another pool.
        """
        folder = Folder(Path(path))
        if not folder.begun:
            raise RunError(f"{path} holds no state of an online selection")
        self._load(*folder.read(), path)
        self._write()

    def leave_directory(self) -> None:
        """Write nothing from now on: of several processes that keep the same state, one writes it."""
        self._folder = None

    def _apply(self, line: Line) -> None:
        """Let a call of `next` or `observe` take effect, after it is on the disk."""
        if self._folder is not None:
            if not self._folder.begun:
                self._folder.write(self.state_dict())
            self._folder.append(line)
        self.known.follow(line)
        self._logged += _named(line)
        if self._logged > max(LEAST_LOG, 2 * len(self.ids)):
            self._write()

    def _write(self) -> None:
        self._logged = 0
        if self._folder is not None:
            self._folder.write(self.state_dict())

    def _load(self, state: State, log: Sequence[Line], where: str | Path) -> None:
        try:
            if state["pool"] != self._digest():
                raise RunError(
                    f"{where} is of another pool: go on with the ids that it was made of, or begin elsewhere"
                )
            self.known.load(state)
            for line in log:
                self.known.follow(line)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{where} cannot be read ({error!r}): begin anew without it") from error
        self._logged = sum(map(_named, log))

    def _digest(self) -> str:
        return hashlib.sha256("\0".join(self.ids).encode()).hexdigest()


def _named(line: Line) -> int:
    """How many prompts a line names."""
    return len(line["taken"] if "taken" in line else line["prompts"])
