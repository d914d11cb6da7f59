"""The sandbox holds: every escape attempt is contained, ends in time, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from escape_attempts import ATTEMPTS

from learnalign.errors import RewardError
from learnalign.rewards.code import sandbox, system_calls
from learnalign.rewards.code.sandbox import Ran
from learnalign.rewards.code.worker import prepare

TIMEOUTS = {"sleep", "a busy loop", "signal handlers", "a catastrophic regular expression", "closed descriptors"}
OUTPUTS = {"endless output", "endless errors"}
HERE = Path(__file__).parent


class World(NamedTuple):
    """What attempts aim at."""

    folder: Path
    victim: subprocess.Popen[bytes]
    datagrams: socket.socket
    values: dict[str, object]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A folder open to everybody (pytest's own are not), a process to kill, and sockets that listen."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield from _world(Path(folder), monkeypatch)


def _world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o666)
    monkeypatch.setenv("LEARNALIGN_TEST_SECRET", "secret")
    with (
        subprocess.Popen(["sleep", "60"]) as victim,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        port = server.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        datagrams.setblocking(False)
        named.bind(os.path.relpath(folder / "socket"))
        (folder / "socket").chmod(0o777)
        abstract.bind(f"\0learnalign-test-{port}")
        named.listen()
        abstract.listen()
        values = {"PORT": port, "VICTIM": victim.pid, "PARENT": os.getpid(), "FOLDER": folder}
        yield World(folder, victim, datagrams, values)
        victim.kill()


def limit(name: str) -> float:
    """Seconds of processor time: those that hang use all of it, the others none, also on a busy machine."""
    return 1.0 if name in TIMEOUTS else 20.0


def source(name: str, world: World) -> str:
    return string.Template(ATTEMPTS[name]).substitute(world.values)


def survivors() -> set[str]:
    """Process ids of programs of the sandbox that are alive, those of other test runs included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "program.py" in command or command == "sleep\x0010.1\x00":
            found.add(path.parent.name)
    return found


def check(name: str, ran: Ran, world: World, seconds: float) -> None:
    """The attempt failed, ended as it should, and nothing is left of it."""
    said = (ran.stdout[-2000:] + ran.stderr[-2000:]).decode(errors="replace")
    assert "ESCAPED" not in said.replace('"ESCAPED"', ""), said
    expected = "timeout" if name in TIMEOUTS else "output" if name in OUTPUTS else "exit"
    assert ran.ended == expected, (ran.ended, said)
    assert seconds < 300
    assert world.victim.poll() is None
    assert not (world.folder / "written").exists()
    assert (world.folder / "secret").read_text() == "secret"
    with pytest.raises(BlockingIOError):
        world.datagrams.recv(10)
    left = survivors()
    deadline = time.monotonic() + 6  # the attempts themselves would stay for ten
    while left & survivors() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left & survivors() == set()


def test_there_are_enough_attempts() -> None:
    assert len(ATTEMPTS) >= 35


@pytest.mark.parametrize("name", ATTEMPTS)
@pytest.mark.usefixtures("contained")
def test_attempt_is_contained(name: str, world: World) -> None:
    begun = time.monotonic()
    ran = sandbox.run(source(name, world), "given", seconds=limit(name), memory_mb=256)
    check(name, ran, world, time.monotonic() - begun)


TEETH = (
    "endless output",
    "reading the environment",
    "reading outside",
    "a TCP socket",
    "a UDP socket",
    "a Unix socket",
    "reading the parent in /proc",
    "a symbolic link",
    "a hard link",
    "descriptors of others",
    "a huge file",
    "many files",
    "many threads",
    "running a file of its own",
    "killing another process",
)


@pytest.mark.parametrize("name", TEETH)
def test_attempt_would_succeed_elsewhere(name: str, world: World) -> None:
    """Without the sandbox the harmless ones do escape: what contains them is not a mistake in them."""
    folder = world.folder / "elsewhere"
    folder.mkdir()
    (folder / "program.py").write_text(source(name, world))
    with open("/dev/null") as extra:
        ran = subprocess.run(
            [sys.executable, "program.py"],
            cwd=folder,
            capture_output=True,
            timeout=600,
            pass_fds=[extra.fileno()],
            input=b"",
        )
    assert b"ESCAPED" in ran.stdout + ran.stderr


AS_USER = """
import json, sys
from learnalign.rewards.code import sandbox
namespaces = sys.argv[2] == "namespaces"
if not namespaces:
    sandbox.adopt_orphans()
ran = sandbox.run(sys.stdin.read(), "given", seconds=float(sys.argv[3]), memory_mb=256, namespaces=namespaces)
if not namespaces:
    sandbox.kill_descendants()
print(json.dumps([ran.ended, ran.code, ran.stdout.decode()[-2000:], ran.stderr.decode()[-2000:]]))
"""


def run_elsewhere(text: str, folder: Path, seconds: float, namespaces: bool, user: int | None) -> Ran:
    """Run a program in the sandbox from a process of its own, with a Python that every user can run."""
    python = next((p for p in (sys._base_executable, "/usr/bin/python3") if user is None or _runs(p, user)), None)  # type: ignore[attr-defined]
    if python is None:
        pytest.skip(f"there is no Python that user {user} can run")
    root = Path(sandbox.__file__).parents[3]
    for path in (Path(sandbox.__file__), sandbox.LAUNCHER, Path(system_calls.__file__), root / "learnalign/errors.py"):
        copy = folder / path.relative_to(root)  # where any user can read it
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    command = [python, "-S", "-B", "-c", AS_USER, "-"]
    command += ["namespaces" if namespaces else "weak", str(seconds)]
    environment = {"PYTHONPATH": str(folder), "LEARNALIGN_TEST_SECRET": "secret", "PATH": os.environ["PATH"]}
    who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    ran = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=600,
        **who,  # type: ignore[call-overload]
    )
    assert ran.returncode == 0, ran.stderr
    ended, code, stdout, stderr = json.loads(ran.stdout)
    return Ran(ended, code, stdout.encode(), stderr.encode())


def _runs(python: str, user: int) -> bool:
    try:
        return subprocess.run([python, "-S", "-c", ""], user=user, group=user, extra_groups=[], env={}).returncode == 0
    except OSError:
        return False


ORDINARY = 65533
"""A user other than root, for tests that run as root."""


@pytest.mark.parametrize(
    "name",
    [
        "fork bomb",
        "writing outside",
        "reading outside",
        "reading the environment",
        "a TCP socket",
        "a Unix socket",
        "ptrace",
        "reading the parent in /proc",
        "a double fork",
        "stopping its parent",
        "many threads",
        "exec of a shell",
        "namespaces of its own",
        "mount and chroot",
        "privileges",
        "devices",
        "signals to everybody",
        "dangerous system calls",
        "limits of others",
    ],
)
@pytest.mark.usefixtures("contained")
def test_attempt_is_contained_for_an_ordinary_user(name: str, world: World) -> None:
    """Started by a user without privileges, whose own files are to be kept from the program."""
    if os.getuid() != 0:
        pytest.skip("the tests run as an ordinary user, so that all the others show this already")
    os.chown(world.folder / "secret", ORDINARY, ORDINARY)
    (world.folder / "secret").chmod(0o600)
    begun = time.monotonic()
    ran = run_elsewhere(source(name, world), world.folder, limit(name), namespaces=True, user=ORDINARY)
    check(name, ran, world, time.monotonic() - begun)


WEAK = (
    "fork bomb",
    "memory bomb",
    "endless output",
    "a double fork",
    "a session of its own",
    "sleep",
    "a busy loop",
    "signal handlers",
    "closed descriptors",
    "descriptors of others",
    "a huge file",
    "many open files",
    "many threads",
    "abuse of standard input",
    "deep recursion",
    "higher limits",
    "signals to everybody",
    "killing another process",
    "a TCP socket",
    "System V segments",
    "memory in descriptors",
    "the session keyring",
    "dangerous system calls",
    "limits of others",
)


@pytest.mark.parametrize("name", WEAK)
def test_what_holds_without_namespaces(name: str, world: World) -> None:
    begun = time.monotonic()
    user = ORDINARY if os.getuid() == 0 else None
    ran = run_elsewhere(source(name, world), world.folder, limit(name), namespaces=False, user=user)
    check(name, ran, world, time.monotonic() - begun)


@pytest.mark.usefixtures("contained")
def test_programs_have_what_they_need() -> None:
    """What the filter leaves: threads, processes, event loops, signals to oneself."""
    text = """
import asyncio, ctypes, multiprocessing, os, signal, subprocess, sys, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
asyncio.run(asyncio.sleep(0))
print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout)
worker = multiprocessing.get_context("fork").Process(target=print, args=("process",)); worker.start(); worker.join()
signal.signal(signal.SIGUSR1, lambda *a: print("signal"))
os.kill(os.getpid(), signal.SIGUSR1)
print(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)(1))
"""
    ran = sandbox.run(text, "", seconds=60, memory_mb=512)
    assert sorted(ran.stdout.decode().split()) == ["2", "b'1\\n'", "process", "signal", "thread"], ran.stderr.decode()


@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize(("processes", "ended"), [(6, "memory"), (1, "exit")])
def test_processes_share_one_limit_of_memory(processes: int, ended: str) -> None:
    """Each within its own limit, and pages that forks share counted once."""
    text = f"""
import os, time
shared = bytearray(os.urandom(1 << 20) * 100)
for _ in range({processes} - 1):
    if os.fork() == 0:
        own = bytearray(os.urandom(1 << 20) * 200)
        time.sleep(300)
for _ in range(4):
    if os.fork() == 0:
        print(len(shared)); time.sleep(1); os._exit(0)
time.sleep(2 if {processes} == 1 else 300)
"""
    ran = sandbox.run(text, "", seconds=120, memory_mb=400)
    assert ran.ended == ended, ran


@pytest.mark.usefixtures("contained")
def test_standard_input_may_be_larger_than_what_is_writable() -> None:
    ran = sandbox.run("import sys\nprint(len(sys.stdin.read()))", "x" * (66 << 20), seconds=60, memory_mb=512)
    assert (ran.ended, ran.code, ran.stdout) == ("exit", 0, b"69206016\n")


def test_filters_of_both_machines() -> None:
    """Every jump stays within the filter, and the last instruction decides."""
    for machine in ("x86_64", "aarch64"):
        for namespaces in (True, False):
            program = system_calls.filter_program(namespaces, machine)
            assert len(program) < 4096
            for at, (code, true, false, _) in enumerate(program):
                assert at + 1 + max(true, false) < len(program) or code == 6
            assert program[-1][0] == 6
    assert system_calls.filter_program(True, "riscv64") == []


def test_a_machine_without_a_filter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "filter_program", lambda namespaces: [])
    assert not sandbox.run("", "", seconds=60, memory_mb=256).filtered
    assert "without a filter" in str(prepare(["5", "", "strong"], 512)("where"))


@pytest.mark.usefixtures("contained")
def test_a_program_runs_as_a_program_does() -> None:
    text = "import sys, json, collections\nprint(sys.stdin.read()[::-1], sys.argv, __name__)\nsys.exit(3)"
    ran = sandbox.run(text, "\u00e4b\n", seconds=60, memory_mb=256)
    assert (ran.ended, ran.code, ran.stdout.decode()) == ("exit", 3, "\nb\u00e4 ['program.py'] __main__\n")
    assert sandbox.run("print({'a', 'b', 'c', 'd'})", "", seconds=60, memory_mb=256) == sandbox.run(
        "print({'a', 'b', 'c', 'd'})", "", seconds=60, memory_mb=256
    )
    large = sandbox.run("import sys\nprint(len(sys.stdin.read()) * 'y')", "x" * 3_000_000, seconds=60, memory_mb=256)
    assert len(large.stdout) == 3_000_001


def test_what_cannot_be_contained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "interpreter", lambda: ("/usr/bin/env", "/nowhere/at/all"))
    with pytest.raises(RewardError, match=r"cannot be contained|launcher failed"):
        sandbox.run("", "", seconds=1, memory_mb=256)
