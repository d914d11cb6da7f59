"""What a worker is asked to do, and the units in which it is asked. This module runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Unit(NamedTuple):
    """What one worker computes at a time."""

    prompt_ids: Sequence[str]
    """Named where no worker survives the unit."""
    payload: tuple[Any, ...]
    """Sent to the worker."""
    kept: Any = None
    """Stays with the driver, and comes back beside the result."""


@dataclass(frozen=True)
class Needs:
    """What one worker takes of the cluster."""

    gpus: int = 0
    """Where the cluster has GPUs; without them it takes `cpus`."""
    cpus: int = 1
    beside: bool = False
    """Works while the workers that hold the cluster's processors wait, so that none of them is asked for."""
    ahead: int = 2
    """Units that it is given at a time: the one that it computes, and those that wait for it."""


@dataclass(frozen=True)
class Later:
    """In place of a unit's result that a device is still at work on."""

    wait: Callable[[], Any]
    """The result, once it is there."""


class Opened(Protocol):
    """Work that is ready for units. It must keep nothing from one unit that changes the result of another."""

    @property
    def device(self) -> str:
        """Kind of device, such as the name of the GPU: results of two kinds may differ in their last bits."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """What must be the same in all workers."""
        ...

    def __call__(self, *payload: Any) -> Any:
        """The result of a unit, or `Later`, so that the next unit can be begun before this one's result is used."""
        ...


class Work(Protocol):
    """A description of what workers do: plain settings, which travel to them."""

    @property
    def needs(self) -> Needs: ...

    def identity(self) -> dict[str, str]:
        """Versions and digests that must be the same on the driver and on all nodes; asked once a node."""
        ...

    def open(self, say: Callable[[str], None]) -> AbstractContextManager[Opened]:
        """Load whatever is heavy. say: takes lines for the person who watches."""
        ...


class Workers(Protocol):
    """Whoever computes units: actors, or this process."""

    def map(self, units: Iterable[Unit], *, ordered: bool = True) -> Iterator[tuple[Unit, Any]]:
        """Every unit with its result, in the order of the units or as they come.

        Units are taken only as fast as they are computed. Raises what computing raises, and `EngineError` with the
        prompts of a unit that no worker survives.
        """
        ...

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of a method of `Opened`, of whichever worker is there; all would answer the same."""
        ...

    def facts(self) -> dict[str, Any]:
        """For the manifest: who worked; empty for this process alone."""
        ...

    def notes(self) -> list[str]:
        """The same as a sentence for people."""
        ...
