"""Runs one Python program that nobody has read, so that it can harm little: a time-out, a cut-off, an exit code.

Contained, where the system allows namespaces: its network (it has none), the file system (it sees /usr, /lib, /bin and
the folder of this Python, read-only, and 64 MiB of memory to write in), other processes, the environment, whatever it
started (all is killed at its end), by limits CPU seconds, address space, file sizes, open files, processes and the
length of its output, and by a filter the system calls in `system_calls`, on x86_64 and aarch64.

Without namespaces (`namespaces=False`) only the limits, the filter, the empty environment, the temporary directory and
the killing of what it started are left, and, started by root, another user: it can read what that user can read and
write where that user can write; where there is no filter also signal that user's processes and reach the network.

Memory is limited for each process by the kernel, and for all of a program's together by looking every `LOOK_SECONDS`.

Not contained, in either case: a flaw in the kernel (it runs on yours); memory that several processes take between two
looks; time that it takes from others on the machine; side channels. Do not run it where one
such program would be a disaster: use a Sandbox Fusion server (`sandbox_fusion`) in a machine of its own. And a program
can tell that it is being tested: that is for `code` to consider.

This module does not know tests and verdicts, and needs Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from learnalign.errors import RewardError
from learnalign.rewards.code.system_calls import filter_program

PROCESSES = 32
"""Processes and threads that a program may have at a time."""
OPEN_FILES = 64
FILE_MB = 16
OUTPUT_BYTES = 8 << 20
"""Of standard output and standard error together; a program that writes more is killed."""
LOOK_SECONDS = 0.05
"""Between looks at the memory of all processes of a program."""
LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
CHUNK = 1 << 16
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36


class Ran(NamedTuple):
    """What became of a program."""

    ended: str
    """`exit`, `timeout` (of either clock), `output` (too much of it) or `memory` (of all its processes together)."""
    code: int
    """Its exit code, negative for the signal that ended it; 0 where it was killed for the above."""
    stdout: bytes
    stderr: bytes
    filtered: bool = True
    """Whether system calls were refused as `system_calls` says."""


def run(source: str, stdin: str, *, seconds: float, memory_mb: int, namespaces: bool = True) -> Ran:
    """Run `source` as a Python program that reads `stdin`.

    It may take `seconds` of CPU time (rounded up) and twice that on the clock, and `memory_mb` MiB of address space a
    process and of memory in all.
    Raises `RewardError` if it cannot be contained as asked for on this system.
    """
    with tempfile.TemporaryDirectory(prefix="learnalign-") as directory:
        python, prefix = interpreter()
        job = {
            "source": source,
            "stdin": stdin,
            "namespaces": namespaces,
            "python": python,
            "prefix": prefix,
            "cpu_seconds": math.ceil(seconds),
            "memory_mb": memory_mb,
            "file_mb": FILE_MB,
            "open_files": OPEN_FILES,
            "processes": PROCESSES,
            "filter": filter_program(namespaces),
            "others": 0 if namespaces else _threads_of_user(),
        }
        return _supervise(job, directory, time.monotonic() + 2 * seconds)


def interpreter() -> tuple[str, str]:
    """The Python that runs programs, and the folder that holds all of it: this one, without a virtual environment."""
    return os.path.realpath(sys._base_executable), os.path.realpath(sys.base_prefix)  # type: ignore[attr-defined]


def _supervise(job: dict[str, object], directory: str, deadline: float) -> Ran:
    """Start the launcher, read until all is said or the time is over, and kill what is left."""
    read_status, write_status = os.pipe()
    command = [str(job["python"]), "-I", "-S", "-B", str(LAUNCHER), str(write_status)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        cwd=directory,
        pass_fds=[write_status],
        start_new_session=True,
    ) as launcher:
        os.close(write_status)
        try:
            assert launcher.stdin is not None
            with contextlib.suppress(BrokenPipeError), launcher.stdin as pipe:
                pipe.write(json.dumps(job).encode("ascii"))
            ended, stdout, stderr = _read(launcher, deadline, int(str(job["memory_mb"])) << 20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
    with os.fdopen(read_status, "rb") as pipe:
        said = pipe.read()
    report = json.loads(said) if said else {}
    if "refused" in report and job["namespaces"]:
        raise RewardError(
            f"programs cannot be contained on this system ({report['refused']}): allow namespaces (to root by "
            "CAP_SYS_ADMIN, to others as user namespaces), name a Sandbox Fusion server (reward.sandbox_url), "
            "or accept less with reward.weak_sandbox = true"
        )
    if "refused" in report:
        raise RewardError(
            f"programs cannot be run as another user ({report['refused']}): install Python where every user can read "
            "it, be a user other than root, or name a Sandbox Fusion server (reward.sandbox_url)"
        )
    if not said and ended == "exit" and launcher.returncode < 0:  # without namespaces a program can kill it
        return Ran("exit", launcher.returncode, stdout, stderr)
    if not said and ended == "exit":
        raise RewardError(f"the sandbox's launcher failed: {stderr.decode(errors='replace').strip()[-200:]}")
    if ended == "exit" and report["exit"] == -signal.SIGKILL and report["cpu"] >= 0.9 * float(str(job["cpu_seconds"])):
        ended = "timeout"
    return Ran(ended, report["exit"] if ended == "exit" else 0, stdout, stderr, bool(report.get("filtered", True)))


def _read(launcher: subprocess.Popen[bytes], deadline: float, memory: int) -> tuple[str, bytes, bytes]:
    """What the program writes until its launcher ends: (`Ran.ended`, standard output, standard error)."""
    assert launcher.stdout is not None
    assert launcher.stderr is not None
    written = {launcher.stdout.fileno(): bytearray(), launcher.stderr.fileno(): bytearray()}
    end = os.pidfd_open(launcher.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for descriptor in written:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            selector.register(end, selectors.EVENT_READ)
            ended = ""
            look = time.monotonic() + LOOK_SECONDS
            while not ended:
                ready = {key.fd for key, _ in selector.select(max(min(deadline, look) - time.monotonic(), 0))}
                for descriptor in ready & written.keys():
                    if not _take(descriptor, written[descriptor]):
                        selector.unregister(descriptor)
                if sum(map(len, written.values())) > OUTPUT_BYTES:
                    ended = "output"
                elif end in ready:
                    ended = "exit"
                elif time.monotonic() >= deadline:
                    ended = "timeout"
                elif time.monotonic() >= look:
                    ended = "memory" if _memory(launcher.pid) > memory else ""
                    look = time.monotonic() + LOOK_SECONDS
            for descriptor, content in written.items():  # what is left in the pipes
                while len(content) <= OUTPUT_BYTES and _take(descriptor, content):
                    pass
                ended = "output" if len(content) > OUTPUT_BYTES else ended
        return ended, bytes(written[launcher.stdout.fileno()]), bytes(written[launcher.stderr.fileno()])
    finally:
        os.close(end)


def _memory(root: int) -> int:
    """Bytes of all descendants of a process together, pages that they share counted once."""
    return sum(map(_own_memory, _descendants(root)))


def _own_memory(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended, or may not be looked into
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    with contextlib.suppress(OSError):
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
        return (int(resident) - int(shared)) * PAGE
    return 0


def _take(descriptor: int, content: bytearray) -> bool:
    """Append what can be read now; False if there is nothing now, or nothing any more."""
    try:
        chunk = os.read(descriptor, CHUNK)
    except BlockingIOError:
        return False
    content += chunk
    return bool(chunk)


def adopt_orphans() -> None:
    """Make this process the parent of whatever its descendants leave behind, for `kill_descendants`."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Kill and collect all that descends from this process. Only for a process that runs nothing but programs."""
    while True:
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _descendants(root: int) -> list[int]:
    """Process ids of all descendants, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _processes():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _processes() -> Iterator[tuple[int, int, int]]:
    """(process id, parent, threads) of every process that is visible."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1]), int(fields[17])


def _threads_of_user() -> int:
    """Threads of this user; root's programs run as users of their own, which have none."""
    user = os.getuid()
    total = 0
    for pid, _, threads in _processes() if user else ():
        with contextlib.suppress(OSError):
            total += threads if os.stat(f"/proc/{pid}").st_uid == user else 0
    return total
