"""All that an online selection knows of N prompts, by their position in the pool. This module writes nothing.

What training met and took comes in as lines (`follow`), which a log can hold: what they lead to depends on nothing
else, so that the same lines after the same state give the same picks.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from learnalign.config import OnlineConfig
from learnalign.online.agreement import Shared, compare
from learnalign.online.history import Doubles, History
from learnalign.online.schedule import Schedule
from learnalign.online.weights import RARELY, Evidence, suspicion, weights
from learnalign.scoring.rows import Integers

State = dict[str, Any]
"""Numbers, text, and arrays as bytes in NumPy's .npy format."""
Line = dict[str, Any]
"""taken: positions that training takes, in this order; or prompts, correct, responses: positions, all different, and
how many responses of each came and were correct; of which step, if it has a number."""
ARRAYS = {
    "history": ("correct", "responses", "visits"),
    "schedule": ("last", "jitter", "weight"),
    "": ("agreement_sum", "measured", "unmeasured"),
}
"""Arrays of length N by what holds them."""


class Known:
    """What is known of a pool and when each prompt's turn comes."""

    def __init__(self, size: int, seed: int, settings: OnlineConfig) -> None:
        self.settings = settings
        self.history, self.schedule = History(size), Schedule(size, seed)
        self.counted = -1
        """The last numbered step of the training whose verdicts were counted."""
        self.agreement_sum: Doubles = np.zeros(size)
        self.measured: Integers = np.zeros(size, np.int64)
        """[N] of how many gradients that is."""
        self.unmeasured: npt.NDArray[np.bool_] = np.zeros(size, np.bool_)
        """[N] met since the last measurement."""
        self.shared = Shared(np.zeros(0))
        self.rare_agreement, self.rare = 0.0, 0
        """Of prompts that were rarely solved when they were first measured: sum of agreements then, and how many."""

    def follow(self, line: Line) -> None:
        """Let training take prompts, or count what it sampled of them and weigh them anew."""
        if "taken" in line:
            self.schedule.take(np.array(line["taken"], np.int64))
            return
        prompts = np.array(line["prompts"], np.int64)
        correct, responses = (np.array(line[name], np.float64) for name in ("correct", "responses"))
        self.history.follow(prompts, correct, responses, self.settings.decay)
        self.counted = max(self.counted, line.get("step", -1))
        self.unmeasured[prompts] = True
        self._reweigh(prompts)

    def compare(self, prompts: Integers, phi: npt.NDArray[Any]) -> int:
        """Count agreements of these prompts' gradients, sketches [M, d], with all; returns how many could be compared.

        Ends the time since the last measurement. Raises what `agreement.compare` raises.
        """
        agreement, self.shared = compare(self.shared.aged(self.settings.memory), phi, len(prompts))
        found = ~np.isnan(agreement)
        rare = found & (self.measured[prompts] == 0) & (self.history.success_rate(prompts) < RARELY)
        self.rare_agreement += float(agreement[rare].sum())
        self.rare += int(rare.sum())
        self.agreement_sum[prompts[found]] += agreement[found]
        self.measured[prompts[found]] += 1
        self.unmeasured[:] = False
        self._reweigh(np.flatnonzero(self.history.visits))
        return int(found.sum())

    def dump(self) -> State:
        """All of it."""
        return {
            **{name: _npy(getattr(self._holder(holder), name)) for holder, names in ARRAYS.items() for name in names},
            "shared": _npy(self.shared.total),
            "gradients": self.shared.gradients,
            "squares": self.shared.squares,
            "rare_agreement": self.rare_agreement,
            "rare": self.rare,
            "seed": self.schedule.seed,
            "now": self.schedule.now,
            "taken": self.schedule.taken,
            "all_correct": self.history.all_correct,
            "all_responses": self.history.all_responses,
            "counted": self.counted,
        }

    def load(self, state: State) -> None:
        """Know what `dump` gave, and nothing else. Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
        arrays = {name: _array(state[name]) for names in ARRAYS.values() for name in names}
        short = next((name for name, array in arrays.items() if array.shape != self.measured.shape), None)
        if short is not None:
            raise ValueError(f"{short} must have {len(self.measured)} numbers, found {list(arrays[short].shape)}")
        for holder, names in ARRAYS.items():
            for name in names:
                setattr(self._holder(holder), name, arrays[name])
        self.shared = Shared(_array(state["shared"]), float(state["gradients"]), float(state["squares"]))
        self.rare_agreement, self.rare = float(state["rare_agreement"]), int(state["rare"])
        self.history.all_correct, self.history.all_responses = (
            float(state["all_correct"]),
            float(state["all_responses"]),
        )
        self.schedule.seed, self.schedule.taken = int(state["seed"]), int(state["taken"])
        self.schedule.now, self.counted = float(state["now"]), int(state["counted"])
        self.schedule.index()

    def _holder(self, name: str) -> object:
        return getattr(self, name) if name else self

    @property
    def suspected(self) -> float:
        """How much the pool's reference answers are doubted, 0 to 1 (see `weights`)."""
        return suspicion(self.rare_agreement, self.rare)

    def _reweigh(self, prompts: Integers) -> None:
        history = self.history
        known = Evidence(
            history.correct[prompts],
            history.responses[prompts],
            history.visits[prompts],
            self.agreement_sum[prompts],
            self.measured[prompts],
            history.mean,
        )
        self.schedule.reweigh(prompts, weights(known, self.suspected, self.settings))


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(data: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array
