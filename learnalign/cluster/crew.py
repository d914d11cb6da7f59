"""The workers' lives: started where the cluster has room, checked, given units, and replaced when they die.

    starting -> placed -> checking (one worker a node) -> opening -> ready

A node is checked once, before anything is loaded on it: what identifies the work there must be what identifies it here.
Which unit goes where, and in which order results are used, is decided elsewhere (see `ordered`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError

from learnalign.cluster.actor import Actor, Place
from learnalign.cluster.work import Unit, Work
from learnalign.errors import EngineError, LearnAlignError

LOST = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError)
START_ATTEMPTS = 3
"""Workers in a row that may die while they start."""
LOOK_SECONDS = 10.0
"""How often the cluster is asked whether it has grown."""
WAIT_SECONDS = 60.0
"""Without any worker, after which it is said what is waited for."""
CLOSE_SECONDS = 30.0


class Done(NamedTuple):
    """A unit's result."""

    number: int
    result: Any


class Lost(NamedTuple):
    """A worker died: the unit that it was computing, if any, first, then those that waited for it."""

    numbers: list[int]
    host: str
    reason: str


@dataclass(eq=False)
class Member:
    """A worker."""

    actor: Any
    state: str = "starting"
    place: Place = field(default=Place("", "no node"))
    given: list[int] = field(default_factory=list)
    since: float = 0.0
    """When it became ready."""
    busy: float = 0.0
    """Seconds of computing."""


class Crew:
    """Workers of one piece of work. A context manager: leaving it ends them.

    workers: how many; 0 for as many as the cluster has room for, also when it grows.
    """

    def __init__(self, work: Work, workers: int, say: Callable[[str], None]) -> None:
        self.work, self.workers, self.say = work, workers, say
        largest = {kind: max((int(node.get(kind, 0)) for node in _nodes()), default=0) for kind in ("GPU", "CPU")}
        self.gpus = work.needs.gpus if largest["GPU"] else 0
        self.cpus = 1 if self.gpus else max(1, min(work.needs.cpus, largest["CPU"]))
        self.members: list[Member] = []
        self.restarts: list[str] = []
        self.most, self.nodes, self.devices = 0, Counter[str](), Counter[str]()
        self._identity = work.identity()
        self._about: tuple[str, dict[str, Any]] | None = None
        self._checked: set[str] = set()
        self._awaited: dict[Any, tuple[Member, str | int]] = {}
        self._events: list[Done | Lost] = []
        self._failed_starts = 0
        self._looked, self._waiting_since = -LOOK_SECONDS, time.monotonic()
        self._busy, self._present = 0.0, 0.0
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let workers free what they hold; in no hurry unless something went wrong."""
        closing = [member.actor.close.remote() for member in self.members if member.state == "ready"]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS if error is None else 1.0)
        for member in self.members:
            self._count(member)
            ray.kill(member.actor)
        self.members.clear()

    @property
    def ready(self) -> list[Member]:
        """Workers that take units."""
        return [member for member in self.members if member.state == "ready"]

    def free(self) -> Member | None:
        """The worker that waits for a unit most, or None."""
        idle = min(self.ready, key=lambda member: len(member.given), default=None)
        return idle if idle and len(idle.given) < self.work.needs.ahead else None

    def give(self, member: Member, number: int, unit: Unit) -> None:
        """Hand a unit over."""
        self._awaited[member.actor.compute.remote(*unit.payload)] = member, number
        member.given.append(number)

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of some worker's method; waits until there is one."""
        while True:
            member = min(self.ready, key=lambda member: len(member.given), default=None)
            if member is None:
                self._events += self._next()
                continue
            try:
                return ray.get(member.actor.ask.remote(name, *arguments))
            except RayTaskError as error:
                raise _told(error, member) from error
            except LOST as error:
                self._events += self._bury(member, error)

    def wait(self) -> list[Done | Lost]:
        """What happened next; perhaps nothing yet."""
        events = self._events or self._next()
        self._events = []
        return events

    def _next(self) -> list[Done | Lost]:
        self._grow()
        found, _ = ray.wait(list(self._awaited), timeout=LOOK_SECONDS)
        if not found:
            self._say_waiting()
            return []
        member, what = self._awaited.pop(found[0])
        try:
            value = ray.get(found[0])
        except RayTaskError as error:
            raise _told(error, member, where=not isinstance(what, int)) from error
        except LOST as error:
            return self._bury(member, error)
        if isinstance(what, int):
            return [self._done(member, what, value)]
        getattr(self, f"_{what}")(member, value)
        self._settle()
        return []

    def _done(self, member: Member, number: int, answer: Any) -> Done:
        member.given.remove(number)
        member.busy += answer.seconds
        for line in answer.lines:
            if line not in self._said:
                self._said.add(line)
                self.say(f"{line} (node {member.place.host})")
        return Done(number, answer.result)

    # --- from starting to ready

    def _grow(self) -> None:
        """Start workers for which there is room."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        while len(self.members) < self._wanted():
            member = Member(self._started())
            self.members.append(member)
            self._awaited[member.actor.place.remote()] = member, "placed"

    def _wanted(self) -> int:
        if self.workers:
            return self.workers
        kind, each = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        return max(1, sum(int(node.get(kind, 0)) // each for node in _nodes()))

    def _started(self) -> Any:
        cpus = 0 if self.work.needs.beside else self.cpus
        # A dead actor is replaced here and not by Ray: it may never find room again, and would hold its units.
        options = {"num_cpus": cpus, "num_gpus": self.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return ray.remote(Actor).options(**options).remote()

    def _placed(self, member: Member, place: Place) -> None:
        member.place, member.state = place, "placed"

    def _checked_node(self, member: Member, identity: dict[str, str]) -> None:
        for name, here in self._identity.items():
            if identity.get(name) != here:
                raise EngineError(
                    f"node {member.place.host} has another {name} than the driver: {identity.get(name, 'none')} there, "
                    f"{here} here: the same is needed on all nodes"
                )
        self._checked.add(member.place.node)
        member.state = "placed"

    def _opened(self, member: Member, found: tuple[str, dict[str, Any]]) -> None:
        device, about = found
        host = member.place.host
        first, same = self._about = self._about or (host, about)
        for name, value in about.items():
            if value != same[name]:
                raise EngineError(
                    f"a worker on node {host} finds {name} = {value}, and the first on node {first} {same[name]}: use "
                    "nodes with one kind of device"
                )
        member.state, member.since = "ready", time.monotonic()
        self._failed_starts = 0
        self.nodes[host] += 1
        self.devices[device] += 1
        self.most = max(self.most, len(self.ready))
        self._say_strength()

    def _settle(self) -> None:
        """Let every worker that has its place go on."""
        for member in self.members:
            node = member.place.node
            if member.state != "placed":
                continue
            if node in self._checked:
                member.state = "opening"
                self._awaited[member.actor.open.remote(self.work)] = member, "opened"
            elif not any(other.state == "checking" and other.place.node == node for other in self.members):
                member.state = "checking"
                self._awaited[member.actor.identity.remote(self.work)] = member, "checked_node"

    # --- death

    def _bury(self, member: Member, error: Exception) -> list[Done | Lost]:
        """Replace a worker that died; what it had done before, and what it had been given."""
        done = self._done_before(member)
        self.members.remove(member)
        self._awaited = {ref: one for ref, one in self._awaited.items() if one[0] is not member}
        ray.kill(member.actor)
        self._count(member)
        host, reason = member.place.host, _reason(error)
        if member.state != "ready":
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise EngineError(
                    f"{START_ATTEMPTS} workers in a row died while starting, the last on node {host}: {reason}"
                ) from error
        self.restarts.append(f"node {host}: {reason}")
        self.say(f"a worker on node {host} died ({reason}); {len(member.given)} of its units are given to others")
        self._looked = -LOOK_SECONDS
        self._grow()
        self._settle()
        return [*done, Lost(member.given, host, reason)]

    def _done_before(self, member: Member) -> list[Done | Lost]:
        """Results that have come and were not looked at yet: their units did not kill the worker."""
        own = [ref for ref, (other, what) in self._awaited.items() if other is member and isinstance(what, int)]
        come, _ = ray.wait(own, num_returns=len(own), timeout=0) if own else ([], [])
        done: list[Done | Lost] = []
        for ref in come:
            _, number = self._awaited[ref]
            assert isinstance(number, int)
            try:
                value = ray.get(ref)
            except RayTaskError as error:
                raise _told(error, member) from error
            except LOST:
                continue
            done.append(self._done(member, number, value))
        return done

    def _count(self, member: Member) -> None:
        """Keep account of the time of a worker that goes."""
        if member.since:
            self._present += time.monotonic() - member.since
            self._busy += member.busy

    # --- what is said

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        now = time.monotonic()
        present = self._present + sum(now - member.since for member in self.ready)
        busy = self._busy + sum(member.busy for member in self.ready)
        idle = 1.0 - busy / present if present else 0.0
        return {
            "workers": self.most,
            "nodes": dict(self.nodes),
            "devices": dict(self.devices),
            **{name: value for name, value in (self._about or ("", {}))[1].items() if name == "threads"},
            "restarted": self.restarts,
            "idle_share": float(f"{max(0.0, idle):.3g}"),
        }

    def _say_strength(self) -> None:
        """How many workers there are: once the first is there, once all are, and after every restart."""
        wanted, ready = self._wanted(), len(self.ready)
        if ready == wanted or ready == 1 or self.restarts:
            last = f", {len(self.restarts)} restarted on {self.restarts[-1].partition(':')[0]}" if self.restarts else ""
            self.say(f"{ready} of {wanted} workers{last}")

    def _say_waiting(self) -> None:
        """What is waited for, once, where no worker has come for a while."""
        if self.ready or any(member.state != "starting" for member in self.members):
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > WAIT_SECONDS:
            self._waiting_since = time.monotonic() + 1e9
            asked = f"{self.gpus} GPUs" if self.gpus else f"{self.cpus} processors"
            free = ray.available_resources()
            self.say(
                f"waiting for a node with room for a worker of {asked}; free in the cluster: "
                f"{free.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} processors"
            )


def _nodes() -> list[dict[str, float]]:
    """What every node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _told(error: RayTaskError, member: Member, where: bool = True) -> LearnAlignError:
    """An error of work as one line: its cause, with the node where that is where to look."""
    cause = error.cause
    if isinstance(cause, LearnAlignError) and not where:
        return cause
    kind = "" if isinstance(cause, LearnAlignError) else f"{type(cause).__name__}: "
    first = (str(cause).strip() or "no message").splitlines()[0]
    return EngineError(f"a worker on node {member.place.host}: {kind}{first}")


def _reason(error: Exception) -> str:
    """Why a worker died, in one line: Ray has it last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200].rstrip(".")
