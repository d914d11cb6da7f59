"""The core inside somebody else's process: forks, daemon threads, refused threads, containers' quotas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from learnalign import _core
from learnalign.store import SketchReader, SketchWriter

SETUP = """
import os, sys, threading, time
import numpy as np
from learnalign.errors import StoreError
from learnalign.store import SketchReader, SketchWriter
from learnalign.scoring import score_shards

def rows(name, count=3):
    return [f"{name}/{i}" for i in range(count)], np.full(count, 0.5), np.ones((count, 37), np.float32)

def writer(path):
    return SketchWriter(path, dimension=37, identity={})

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

def succeeded(child):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False
"""


def run(code: str, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which is killed if it hangs."""
    command = [sys.executable, "-c", SETUP + code, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"hangs: {late.stderr!r}")


# --- fork


@pytest.mark.parametrize("appended", [False, True], ids=["before the first append", "after it"])
@pytest.mark.parametrize("use", ["append", "flush", "close", "committed_rows"])
def test_a_fork_is_refused(tmp_path: Path, appended: bool, use: str) -> None:
    """Its parent goes on as if nothing had been, and no row of the child is lost in silence."""
    code = f"""
w = writer(sys.argv[1])
if {appended}:
    w.append(*rows("a"))

def work():
    try:
        {{"append": lambda: w.append(*rows("child")), "flush": w.flush, "close": w.close,
          "committed_rows": lambda: w._core.committed_rows}}[{use!r}]()
    except StoreError as error:
        assert f"opened for writing by process {{os.getppid()}}, and this is its fork {{os.getpid()}}" in str(error)
        os._exit(0)
    os._exit(3)

assert succeeded(in_child(work)), "the child is refused, at once"
w.append(*rows("b"))
w.close()
print(SketchReader(sys.argv[1]).rows)
"""
    result = run(code, str(tmp_path / "store"))
    assert result.stdout.strip() == ("6" if appended else "3"), result.stderr


@pytest.mark.parametrize(
    "leave", ["sys.exit(0)", "global w; del w; os._exit(0)", "w.__exit__(OSError, OSError(), None)"]
)
def test_a_fork_leaves_without_waiting_for_threads_it_does_not_have(tmp_path: Path, leave: str) -> None:
    code = f"""
w = writer(sys.argv[1])
w.append(*rows("a"))
w.flush()

def work():
    {leave}

assert succeeded(in_child(work))
w.append(*rows("b"))
w.close()
print(SketchReader(sys.argv[1]).complete)
"""
    result = run(code, str(tmp_path / "store"))
    assert result.stdout.strip() == "True", result.stderr


@pytest.mark.parametrize("end", ["w.close()", "w._core.stop()", "os.kill(os.getpid(), 9)"])
def test_a_fork_does_not_keep_the_lock(tmp_path: Path, end: str) -> None:
    """A child that lives on (a data loader's worker) does not keep others from writing."""
    code = f"""
w = writer(sys.argv[1])
w.append(*rows("a"))
w.flush()

def work():
    os.close(1)
    os.close(2)
    time.sleep(60)

child = in_child(work)
print(child, flush=True)
{end}
"""
    result = run(code, str(tmp_path / "store"))
    child = int(result.stdout)
    try:
        os.kill(child, 0)  # it is there
        with SketchWriter(tmp_path / "store", dimension=37, identity={}) as writer:
            assert len(writer.done) == 3
    finally:
        os.kill(child, 9)


@pytest.mark.parametrize("method", ["exact", "lists", "int8"])
def test_a_fork_searches_neighbors_after_its_parent_has(method: str) -> None:
    """Threads of FAISS and torch are not there in a child, and OpenMP would wait for them."""
    pytest.importorskip("faiss")
    code = """
os.environ["OMP_NUM_THREADS"] = "2"
from learnalign import select
from learnalign.selection import Search
phi = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)

def picks():
    return select(phi, np.full(3000, 0.5), 50, strategy="greedy", search=Search(method=METHOD)).indices

expected = picks()

def work():
    os._exit(0 if np.array_equal(picks(), expected) else 3)

assert succeeded(in_child(work))
print("same")
"""
    result = run(f"import os; os.environ['OMP_NUM_THREADS'] = '2'\nMETHOD = {method!r}\n" + code)
    assert result.stdout.strip() == "same", result.stderr


# --- threads


@pytest.mark.parametrize("work", ["score", "append"])
def test_the_main_thread_may_leave_before_a_daemon_thread(tmp_path: Path, work: str) -> None:
    """Whether it computes just then, asks for the interpreter's lock or has it."""
    code = """
phi = np.ones((20_000, 512), np.float32)
def score():
    score_shards([phi], np.full(len(phi), 0.25), pool_size=len(phi), threads=1)

w, block = writer(sys.argv[1]), [0]
def append():
    w.append(*rows(block[0], 200))
    block[0] += 1

def forever(work):
    while True:
        work()

for _ in range(4):
    threading.Thread(target=forever, args=({"score": score, "append": append}[sys.argv[2]],), daemon=True).start()
time.sleep(float(sys.argv[3]))
print("left", flush=True)
"""
    for attempt in range(6):
        result = run(code, str(tmp_path / str(attempt)), work, str(0.1 + 0.037 * attempt))
        assert result.stdout == "left\n"
        assert result.returncode == 0, result.stderr
        assert SketchReader(tmp_path / str(attempt)).check() == []


def test_refused_threads_cost_time_and_nothing_else(tmp_path: Path, faults: dict[str, str]) -> None:
    """With all threads refused, and with all but one; the store needs its two and says so."""
    code = """
phi = np.random.default_rng(0).standard_normal((5000, 64))
scores = score_shards([phi], np.full(5000, 0.25), pool_size=5000, threads=3)
sys.stdout.buffer.write(scores.score.tobytes() + scores.alignment.tobytes())
"""
    plain = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True)
    for nth in ("1", "2"):
        environment = {**os.environ, **faults, "FAULT": f"pthread_create:{nth}:EAGAIN:core"}
        found = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, env=environment)
        assert found.stdout == plain.stdout, found.stderr
    code = f"""
w = writer({str(tmp_path / "store")!r})
try:
    w.append(*rows("a"))
except StoreError as error:
    print(error)
"""
    environment = {**os.environ, **faults, "FAULT": "pthread_create:1:EAGAIN:core"}
    refused = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, env=environment)
    assert "the system refuses a thread to write" in refused.stdout, refused.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_all_cores_are_those_the_process_may_use() -> None:
    whole = sorted(os.sched_getaffinity(0))
    assert 1 <= _core.usable_cores() <= len(whole)
    code = f"""
from learnalign import _core
os.sched_setaffinity(0, {{{whole[0]}}})
assert _core.usable_cores() == 1
phi = np.ones((200_000, 64))
most = 0
def watch():
    global most
    while True:
        most = max(most, len(os.listdir("/proc/self/task")))
        time.sleep(0.001)
threading.Thread(target=watch, daemon=True).start()
before = len(os.listdir("/proc/self/task"))
for _ in range(5):
    score_shards([phi], np.full(200_000, 0.25), pool_size=200_000)
print(most - before)
"""
    result = run(code)
    assert int(result.stdout) <= 1, "one thread of the scorer beside those that are there"


@pytest.mark.parametrize(
    ("groups", "settings", "cores"),
    [
        ("0::/\n", {}, 0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "900000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 4),
        ("0::/docker/0123\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:memory:/x\n3:cpu,cpuacct:/docker/0123\n",
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 0),
        ("", {"cpu.max": "100000 100000\n"}, 0),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, groups: str, settings: dict[str, str], cores: int) -> None:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in settings.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _core.cores_of_quota(os.fsencode(tmp_path)) == cores
