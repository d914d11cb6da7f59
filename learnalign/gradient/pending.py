"""Sketches that a device may still be working on, while the host does something else. This module runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from learnalign.gradient.gap import Gap, Told, gap, write_own


class Sketched(NamedTuple):
    """What one call found out about its groups."""

    phi: np.ndarray
    """[M, d] sketches."""
    gaps: list[Gap]
    """[M] how far recorded log-probabilities are from the policy's own, over the responses that have a gradient."""


class Own(NamedTuple):
    """The policy's own log-probabilities of one pass, on their way to the host."""

    told: Sequence[Sequence[Told]]
    """A list a group: where they belong."""
    firsts: Sequence[int]
    """Where each group's begin."""
    log_probabilities: Tensor


class Pending:
    """What `Sketcher.launch` has begun.

    told: M lists, of each group's recorded log-probabilities. rows: which of the M groups have a gradient. phi: their
    sketches [len(rows), d]. arrived: what happens when phi and the tensors of own have come to the host; None where
    they are there.
    """

    def __init__(
        self,
        told: Sequence[Sequence[Told]],
        rows: Sequence[int],
        phi: Tensor,
        own: Sequence[Own],
        arrived: torch.cuda.Event | None,
    ) -> None:
        self._told, self._rows, self._phi, self._own, self._arrived = told, rows, phi, own, arrived

    def done(self) -> bool:
        """Whether `wait` returns at once."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Sketched:
        """The result, in memory of its own; waits until the device is done with it, and not for what came after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        for own in self._own:
            values = own.log_probabilities.numpy()
            for told, first in zip(own.told, own.firsts, strict=True):
                write_own(told, values[first:])
        phi = torch.zeros(len(self._told), self._phi.shape[1], dtype=self._phi.dtype)
        phi[list(self._rows)] = self._phi
        return Sketched(phi.numpy(), [gap(told) for told in self._told])
