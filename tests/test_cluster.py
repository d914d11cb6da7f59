"""Many workers make what one process makes, byte for byte, whichever of them dies; or refuse in one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from cluster_work import Doubling
from ray.cluster_utils import Cluster

from learnalign import cluster
from learnalign.cluster import Needs, Unit
from learnalign.cluster.local import LocalWorkers
from learnalign.cluster.ordered import RayWorkers
from learnalign.cluster.session import connect
from learnalign.config import ClusterConfig, Config, PolicyConfig, with_values
from learnalign.errors import ConfigError, EngineError, MissingPackageError, RewardError
from learnalign.progress import Progress
from learnalign.runs.workers import say_idle_gpus

MEMORY = 80 << 20


class Watched(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head node and another one, with a processor each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=own)
    started.add_node(num_cpus=1, num_gpus=0, object_store_memory=MEMORY)
    ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
    yield started
    ray.shutdown()
    started.shutdown()
    patch.undo()
    torch.set_num_threads(threads)


def doubled(nodes: Cluster, units: list[Any], workers: int = 2, ordered: bool = True) -> tuple[list[Any], Watched, Any]:
    watched = Watched()
    given = [Unit([f"p{k}", f"q{k}"], (what,), k) for k, what in enumerate(units)]
    settings = ClusterConfig(address=nodes.address, workers=workers)
    with cluster.open_workers(settings, Doubling(), "double", watched) as opened:
        assert isinstance(opened, RayWorkers)
        while len(opened.crew.ready) < workers:  # one alone could be done before the other has started
            opened.crew.wait()
        found = [(unit.kept, result) for unit, result in opened.map(iter(given), ordered=ordered)]
        return found, watched, opened.facts()["cluster"]


def test_results_come_in_order(nodes: Cluster) -> None:
    found, watched, facts = doubled(nodes, list(range(40)))
    assert found == [(k, 2 * k) for k in range(40)]
    assert facts["workers"] == 2
    assert facts["devices"] == {"abacus": 2}
    assert 0 < facts["idle_share"] < 1
    assert "double: 2 of 2 workers" in watched.lines
    assert sum("at work" in line for line in watched.lines) == 1, "the same line of all workers is said once"


def test_results_in_any_order_are_all_there(nodes: Cluster) -> None:
    found, _, _ = doubled(nodes, list(range(20)), ordered=False)
    assert sorted(found) == [(k, 2 * k) for k in range(20)]
    assert found != sorted(found)


def test_a_result_that_comes_later_is_waited_for_where_it_is_made(nodes: Cluster) -> None:
    found, _, _ = doubled(nodes, [0, "later", 2])
    assert found == [(0, 0), (1, "came"), (2, 4)]


def test_here_a_result_that_comes_later_is_waited_for_behind_the_next_unit() -> None:
    units, said = [Unit([], (what,), what) for what in ("later", 1, "later", "later", "wrong")], list[str]()
    found: list[tuple[Any, Any, int]] = []
    with Doubling().open(said.append) as opened:
        results = LocalWorkers(opened).map(units)
        with pytest.raises(RewardError):
            found.extend((unit.kept, result, len(said)) for unit, result in results)
    assert found == [("later", "came", 2), (1, 2, 2), ("later", "came", 4), ("later", "came", 5)]


def test_the_unit_of_a_dead_worker_is_given_out_again(nodes: Cluster, tmp_path: Path) -> None:
    units = [0, 1, 2, f"stumble {tmp_path / 'fell'}", 4, 5, 6, 7, 8]
    found, watched, facts = doubled(nodes, units)
    assert found == [(k, "went on" if k == 3 else 2 * k) for k in range(9)]
    assert len(facts["restarted"]) == 1
    assert any(line.startswith("double: a worker on node ") and "of its units" in line for line in watched.lines)


def test_a_unit_that_no_worker_survives_is_named(nodes: Cluster) -> None:
    with pytest.raises(EngineError, match=r"4 workers died over the same prompts \('p2', 'q2'\), the last on node "):
        doubled(nodes, [0, 1, "poison", 3, 4])


def test_restarts_are_told(nodes: Cluster, tmp_path: Path) -> None:
    """With one worker: its successor finishes the work."""
    found, watched, facts = doubled(nodes, [f"stumble {tmp_path / 'fell'}", 1], workers=1)
    assert found == [(0, "went on"), (1, 2)]
    assert watched.lines[-2].startswith("double: 1 of 1 workers, 1 restarted on node ")
    assert facts["workers"] == 1


def test_an_error_of_the_work_comes_as_it_is(nodes: Cluster) -> None:
    with pytest.raises(RewardError, match=r"^there is no double of wrong$"):
        doubled(nodes, [0, "wrong", 2])


def test_without_a_cluster_idle_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    said: list[str] = []
    say_idle_gpus(Config(), Needs(gpus=2), said.append)
    say_idle_gpus(Config(cluster=ClusterConfig(address="local")), Needs(gpus=2), said.append)
    say_idle_gpus(Config(policy=PolicyConfig(device="cpu")), Needs(gpus=1), said.append)
    say_idle_gpus(Config(), Needs(gpus=8), said.append)
    assert said == ["6 of 8 GPUs are left idle: --ray local uses them all"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": {"address": "ray://head:10001"}}, "cluster.address must be auto, local or HOST:PORT"),
        ({"cluster": {"address": "auto"}, "policy": {"device": "cuda:1"}}, "workers are given their GPUs by Ray"),
    ],
)
def test_addresses_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_values(Config(), settings, "test")


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        EngineError, match=r"^cannot use the Ray cluster 'auto': Could not find any running Ray instance"
    ):
        connect("auto")


def test_every_error_crosses_processes() -> None:
    missing = MissingPackageError("rollout.engine=vllm", "vllm", ImportError("no", name="vllm"))
    for error in (missing, RewardError("no reward")):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied)) == (type(error), str(error))
