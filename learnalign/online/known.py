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
from learnalign.online.weights import Evidence, weights
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
        value = self.history.expected_learnability(prompts)
        agreement, self.shared = compare(self.shared.aged(self.settings.memory), phi, value)
        found = ~np.isnan(agreement)
        self.agreement_sum[prompts[found]] += agreement[found]
        self.measured[prompts[found]] += 1
        self.unmeasured[:] = False
        self._reweigh(prompts[found])
        return int(found.sum())

    def agreement(self, prompts: Integers) -> Doubles:
        """[M] mean agreement of prompts' gradients with the others', NaN where none was measured."""
        total, count = self.agreement_sum[prompts], self.measured[prompts]
        mean: Doubles = np.divide(total, count, out=np.full(len(prompts), np.nan), where=count > 0)
        return mean

    def dump(self) -> State:
        """All of it."""
        return {
            **{name: _npy(getattr(self._holder(holder), name)) for holder, names in ARRAYS.items() for name in names},
            "shared": _npy(self.shared.total),
            "gradients": self.shared.gradients,
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
        self.shared = Shared(_array(state["shared"]), float(state["gradients"]))
        self.history.all_correct, self.history.all_responses = (
            float(state["all_correct"]),
            float(state["all_responses"]),
        )
        self.schedule.seed, self.schedule.taken = int(state["seed"]), int(state["taken"])
        self.schedule.now, self.counted = float(state["now"]), int(state["counted"])
        self.schedule.index()

    def _holder(self, name: str) -> object:
        return getattr(self, name) if name else self

    def _reweigh(self, prompts: Integers) -> None:
        history = self.history
        known = Evidence(
            history.correct[prompts],
            history.responses[prompts],
            history.visits[prompts],
            self.agreement(prompts),
            self.measured[prompts],
            history.mean,
        )
        self.schedule.reweigh(prompts, weights(known, self.settings))


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(data: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array
