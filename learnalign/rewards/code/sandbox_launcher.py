"""Starts one program inside the sandbox; the process that it runs in must be thrown away afterwards.

`python -I -S -B sandbox_launcher.py STATUS_FD`, with a job as JSON on standard input: see `sandbox`, which speaks to
it. On STATUS_FD it writes one JSON object: `{"exit": code, "cpu": seconds}` (a negative code is a signal), or
`{"refused": why}` if the sandbox cannot be set up here; `"filtered"` says whether system calls are. It imports nothing
of this package, so that it starts in milliseconds.

With namespaces the program is process 1 of its own process namespace: when it ends, or its launcher is killed, the
kernel kills all that it started, whatever they did to hide (and, as for any process 1, the signals that it sends to
itself do not end it). It has a network without interfaces, and a file system that
holds the Python that runs it and /dev/{null,zero,urandom}, read-only, and 64 MiB of memory at /tmp to write in. It has
no privileges there: started by root, it runs as a user of its own that owns nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MS_REMOUNT = 1, 2, 4, 0x1000, 0x4000, 0x40000, 0x20
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
FIRST_USER, USERS = 61184, 4000
"""Where root starts programs: users that belong to nobody (systemd's dynamic ones), another for each at a time, so
that they neither reach one another nor count for one another's limit of processes."""
LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
CANNOT_RUN = 126
WRITABLE_MB = 64
"""Memory to write files in, beside the program and its standard input."""
HOME = "/tmp"
"""Working directory of the program inside its own root."""

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The sandbox cannot be set up on this system."""


def main() -> None:
    """Set up, run, report."""
    status = int(sys.argv[1])
    job = json.load(sys.stdin)
    try:
        report: dict[str, object] = _launch(job)
    except (Refused, OSError) as error:
        report = {"refused": str(error)}
    os.write(status, json.dumps(report).encode())


def _launch(job: dict[str, Any]) -> dict[str, object]:
    """Run the program of `job`, and report its end."""
    os.umask(0o022)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if job["namespaces"]:
        _unshare()
        given = len(job["source"]) * 4 + len(job["stdin"]) * 4
        _make_root((*LIBRARIES, *DEVICES, job["prefix"]), WRITABLE_MB + (given >> 20))
    for name, text in (("program.py", job["source"]), ("stdin", job["stdin"])):
        with open(name, "wb") as file:
            file.write(text.encode(errors="surrogatepass"))
    user = 0
    if os.getuid() == 0:
        user = FIRST_USER + os.getpid() % USERS
        os.chown(".", user, user)
    failed, fails = os.pipe()  # closed by a program that starts, whatever its exit code may be
    child = os.fork()
    if child == 0:
        try:
            _become(job, user, fails)
        finally:
            os.write(fails, b"x")
            os._exit(CANNOT_RUN)
    os.close(fails)
    _, ended, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(ended)
    said = os.read(failed, 2)
    if b"x" in said:
        raise Refused(f"{job['python']} cannot be run by user {user or os.getuid()}")
    return {"exit": code, "cpu": usage.ru_utime + usage.ru_stime, "filtered": not said}


def _unshare() -> None:
    """Namespaces of our own; an ordinary user needs one of users for that, in which it is the only one."""
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    user, group = os.getuid(), os.getgid()
    _call("unshare", flags if user == 0 else flags | CLONE_NEWUSER)
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "wb", buffering=0) as file:
                file.write(text.encode())


def _make_root(shown: tuple[str, ...], megabytes: int) -> None:
    """A root that holds what is shown, read-only, and an empty directory to work in. Takes the current directory."""
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    root = os.getcwd()
    restricted = MS_NOSUID | MS_NODEV
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", restricted, b"size=1m,mode=755")
    os.chdir(root)
    os.mkdir(HOME[1:])
    _call(
        "mount",
        b"tmpfs",
        HOME[1:].encode(),
        b"tmpfs",
        restricted,
        f"size={megabytes}m,nr_inodes=4096,mode=755".encode(),
    )
    for path in filter(os.path.exists, shown):
        inside = path[1:]
        if os.path.lexists(inside):
            continue  # the prefix is /usr, or below it
        os.makedirs(os.path.dirname(inside) or ".", exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        if os.path.isdir(path):
            os.mkdir(inside)
        else:
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
        _call("mount", path.encode(), inside.encode(), None, MS_BIND | MS_REC, None)
        kept = _mount_flags(os.statvfs(inside).f_flag)  # a remount must keep what restricts the mount already
        _call("mount", None, inside.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept, None)
    os.symlink(f"{HOME}/stdin", "dev/stdin")
    _call("mount", None, b".", None, MS_BIND | MS_REMOUNT | MS_RDONLY | restricted, None)
    os.chroot(".")
    os.chdir(HOME)


def _mount_flags(flags: int) -> int:
    """Flags of statvfs as flags of mount: nosuid, nodev, noexec, noatime, nodiratime are the same; relatime is not."""
    same = flags & (2 | 4 | 8 | 1024 | 2048)
    return same | (0x200000 if flags & 4096 else 0)


def _become(job: dict[str, Any], user: int, fails: int) -> None:
    """In the child: limits, nothing open but the three streams, no privileges, and the program."""
    os.dup2(os.open("stdin", os.O_RDONLY), 0)
    os.closerange(3, fails)
    os.closerange(fails + 1, 1 << 16)
    os.setsid()  # a signal to its own group does not reach the launcher
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_DFL)
    memory = job["memory_mb"] << 20
    seconds = job["cpu_seconds"]
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, job["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, job["open_files"]),
        (resource.RLIMIT_NPROC, job["processes"] + job["others"]),
        (resource.RLIMIT_AS, memory),
    ):
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user clears it
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not _filter_calls(job["filter"]):
        os.write(fails, b"f")
    # Hashes that are not random, so that a verdict is the same each time; no other variable, no site-packages.
    os.execve(
        job["python"],
        [job["python"], "-s", "-P", "-S", "-B", "-X", "int_max_str_digits=0", "program.py"],
        {"PYTHONHASHSEED": "0"},
    )


def _filter_calls(instructions: list[list[int]]) -> bool:
    """Refuse system calls from here on: `system_calls` says which. Whether this system can."""
    if not instructions:
        return False
    pid = os.getpid()
    packed = b"".join(struct.pack("=HBBI", *one[:3], pid if one[3] < 0 else one[3]) for one in instructions)
    text = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("@HP", len(instructions), ctypes.addressof(text))
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise Refused(f"{name}: {os.strerror(error).lower()}")


if __name__ == "__main__":
    main()
