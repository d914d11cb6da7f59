"""A run over a cluster makes what one process makes, byte for byte, whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from learnalign.cluster.crew import Crew
from learnalign.config import (
    ClusterConfig,
    Config,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
)
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.online.next import next_prompts
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import create_run, open_run

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}


class Interfering(Progress):
    """Does something once, when so many rows of a step are there; keeps what was said."""

    def __init__(self, acts: dict[str, tuple[int, Callable[[], object]]]) -> None:
        super().__init__(quiet=True)
        self.acts, self.lines = dict(acts), list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def track(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        rows = 0
        with super().track(label, total, unit, done) as advance:

            def watched(count: int) -> None:
                nonlocal rows
                advance(count)
                rows += count
                if label in self.acts and rows >= self.acts[label][0]:
                    _, act = self.acts.pop(label)
                    act()

            yield watched


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head node with one processor, and a second node."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    started.add_node(**NODE)
    ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
    yield started
    ray.shutdown()
    started.shutdown()
    torch.set_num_threads(threads)
    patch.undo()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    pool = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    write_pool(pool, 72, seed=1)
    return Config(
        pool=PoolConfig(path=str(pool)),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16, batch_sequences=96),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=1024, batch_tokens=96),
        select=SelectConfig(n=8),
    )


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory, nodes: Cluster) -> Path:
    """The run of one process."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    pipeline.work(create_run(path, config), config, "sketch", Progress(quiet=True))
    return path


def begun(whole: Path, path: Path, *without: str) -> Path:
    """The run as it was before some steps."""
    shutil.copytree(whole, path)
    for name in without:
        shutil.rmtree(path / name)
    return path


def go_on(path: Path, config: Config, address: str, progress: Progress, workers: int = 2, last: str = "sketch") -> None:
    asked = replace(config, cluster=ClusterConfig(address=address, workers=workers))
    pipeline.work(create_run(path, asked), asked, last, progress)


def assert_same(path: Path, whole: Path, *folders: str) -> None:
    for folder in folders:
        names = sorted(file.name for file in (whole / folder).iterdir())
        assert sorted(file.name for file in (path / folder).iterdir()) == names
        for name in names:
            assert (path / folder / name).read_bytes() == (whole / folder / name).read_bytes(), name


def actors() -> list[psutil.Process]:
    """Processes of this cluster's workers."""
    address = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    raylets = [p for p in psutil.process_iter(["cmdline"]) if address in (p.info["cmdline"] or [])]
    workers = [worker for raylet in raylets for worker in raylet.children(recursive=True)]
    return [worker for worker in workers if worker.cmdline()[:1] and worker.cmdline()[0].startswith("ray::Actor")]


@pytest.fixture
def _both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers are there from the first unit on: a single one would be done before the second has started."""
    ask = Crew.ask

    def patient(crew: Crew, name: str, *arguments: object) -> object:
        while len(crew.ready) < 2:
            crew._events += crew._next()
        return ask(crew, name, *arguments)

    monkeypatch.setattr(Crew, "ask", patient)


@pytest.mark.usefixtures("_both")
def test_sketches_while_a_worker_is_killed(whole: Path, config: Config, nodes: Cluster, tmp_path: Path) -> None:
    path = begun(whole, tmp_path / "run", "sketches")
    watched = Interfering({"sketch": (8, lambda: max(actors(), key=lambda p: p.create_time()).kill())})
    go_on(path, config, nodes.address, watched)
    assert_same(path, whole, "sketches")
    record = open_run(path).record("sketch")
    assert record["cluster"]["workers"] == 2
    assert record["cluster"]["threads"] == torch.get_num_threads()
    assert len(record["cluster"]["restarted"]) == 1
    assert any("died" in line and "; 0 of its" not in line for line in watched.lines)
    assert "2 workers on 1 node, 1 restarted (the last on node " in record["notes"][0]


@pytest.mark.usefixtures("_both")
def test_sketches_while_a_node_is_removed(whole: Path, config: Config, nodes: Cluster, tmp_path: Path) -> None:
    path = begun(whole, tmp_path / "run", "sketches")
    lost = nodes.worker_nodes.copy().pop()

    def remove() -> None:
        nodes.remove_node(lost, allow_graceful=False)
        nodes.add_node(**NODE)

    go_on(path, config, nodes.address, Interfering({"sketch": (8, remove)}))
    assert_same(path, whole, "sketches")
    assert len(open_run(path).record("sketch")["cluster"]["restarted"]) == 1


def die(path: str, address: str) -> None:
    """In a process of its own: lose the worker that samples, and be killed in the middle of the sketches."""
    torch.set_num_threads(1)
    acts = {
        "rollout": (1, lambda: [actor.kill() for actor in actors()]),
        "sketch": (8, lambda: os.kill(os.getpid(), 9)),
    }
    go_on(Path(path), open_run(path).config, address, Interfering(acts), workers=1)


def test_the_driver_is_killed_and_another_number_of_workers_goes_on(
    whole: Path, config: Config, nodes: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    create_run(path, config)
    program = f"import test_cluster_run; test_cluster_run.die({str(path)!r}, {nodes.address!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert_same(path, whole, "rollouts", "rewards")
    assert len(open_run(path).record("rollout")["cluster"]["restarted"]) == 1
    watched = Interfering({})
    go_on(path, config, nodes.address, watched, workers=2)
    assert_same(path, whole, "sketches")
    assert any(line.endswith("gradients were there") for line in watched.lines)


def test_gradients_of_logs_over_a_cluster(config: Config, nodes: Cluster, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    rows = [json.loads(line) for line in Path(str(config.pool.path)).read_text().splitlines()[:10]]
    logged = [
        {
            "input": row["problem"],
            "output": row["answer"] if k else "no",
            "gts": row["answer"],
            "score": float(k),
            "step": 1,
        }
        for row in rows
        for k in range(2)
    ]
    (logs / "1.jsonl").write_text("\n".join(map(json.dumps, logged)))
    over = replace(config, cluster=ClusterConfig(address=nodes.address, workers=1))
    for path, settings in ((tmp_path / "alone", config), (tmp_path / "over", over)):
        next_prompts(path, settings, [], Progress(quiet=True))
        assert next_prompts(path, settings, [logs], Progress(quiet=True), gradients=True).facts["gradients"] == 10
    assert_same(tmp_path / "over/online/0002/gradients", tmp_path / "alone/online/0002/gradients", "sketches")
    names = ("selection.jsonl", "selection.parquet")
    assert all(
        (tmp_path / "over/online/0002" / n).read_bytes() == (tmp_path / "alone/online/0002" / n).read_bytes()
        for n in names
    )


def hub(folder: Path, commit: str) -> dict[str, str]:
    """A cache of the hub that holds the demo's policy as `tests/demo`, and the environment in which it is used."""
    repository = folder / "models--tests--demo"
    shutil.copytree(POLICY, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}


@ray.remote(num_cpus=1)
class Tenant:
    """Somebody else's work."""

    def here(self) -> None:
        pass


def test_other_weights_on_a_node_are_refused(config: Config, nodes: Cluster, tmp_path: Path) -> None:
    tenants = [Tenant.remote() for _ in range(2)]
    ray.get([tenant.here.remote() for tenant in tenants])  # so that only the third node has room
    third = nodes.add_node(**NODE, env_vars=hub(tmp_path / "there", 40 * "b"))
    here = hub(tmp_path / "here", 40 * "a")
    settings = ["--set", "cluster.workers=1", "--set", "rollout.max_new_tokens=8"]
    command = ["rollout", str(tmp_path / "run"), "--pool", str(config.pool.path), "--model", "tests/demo", "-n", "1"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "learnalign.cli", *command, "--ray", nodes.address, *settings],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=300,
    )
    for tenant in tenants:
        ray.kill(tenant)
    nodes.remove_node(third)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"learnalign: node {socket.gethostname()} has another policy than the driver: tests/demo@{40 * 'b'} there, "
        f"tests/demo@{40 * 'a'} here: the same is needed on all nodes"
    )
