"""Which system calls a program is refused, as a seccomp filter (classic BPF) for `sandbox_launcher`.

Refused (EPERM): what has been the way out of many a sandbox (io_uring, userfaultfd, bpf, ptrace and the like, keyrings,
mounts, new namespaces), what makes memory that no limit counts (memfd, System V segments and messages, POSIX queues,
sockets; socket pairs are left, which event loops need), and what reaches other processes of the same user (limits and
priorities of theirs). Without a process namespace, signals to any but the program itself too. `clone3` is ENOSYS, as on
an older kernel, so that the C library uses `clone`, whose flags can be read. Everything else is allowed.

Numbers are those of Linux on x86_64 and aarch64; elsewhere there is no filter, which `sandbox` says. See seccomp(2).
"""

from __future__ import annotations

import platform
from typing import NamedTuple

OWN_PID = -1
"""Stands for the program's process id, which is known only when it runs."""
Instruction = tuple[int, int, int, int]
"""Code, jumps if true and if false, operand: `struct sock_filter`."""


class _Machine(NamedTuple):
    architecture: int
    """AUDIT_ARCH of linux/audit.h."""
    column: int
    """Of the tables below."""


_MACHINES = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}
_REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "fanotify_init": (300, 262),
    "quotactl": (179, 60), "swapon": (167, 224), "swapoff": (168, 225), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgctl": (71, 187),
    "semget": (64, 190), "semctl": (66, 191), "mq_open": (240, 180), "socket": (41, 198),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "process_madvise": (440, 440), "move_pages": (279, 239),
    "migrate_pages": (256, 238),
}  # fmt: skip
_SIGNALS = {
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424)
}  # fmt: skip
_CLONE, _CLONE3, _PRLIMIT, _KILL, _TGKILL = (56, 220), (435, 435), (302, 261), (62, 129), (234, 131)
_NAMESPACES = 0x7E020000
"""Flags of clone that make namespaces."""
_X32 = 0x40000000
"""From here on are the numbers of the x32 calls of x86_64."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x50001, 0x50026


def filter_program(namespaces: bool, machine: str = "") -> list[Instruction]:
    """The filter for this machine, with or without a process namespace; empty where there is none for it."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return []
    refused = {**_REFUSED, **({} if namespaces else _SIGNALS)}
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if known.column == 0:
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _EPERM)]
    for numbers in refused.values():
        program += [(_EQUAL, 0, 1, numbers[known.column]), (_RETURN, 0, 0, _EPERM)]
    program += [(_EQUAL, 0, 1, _CLONE3[known.column]), (_RETURN, 0, 0, _ENOSYS)]
    flags = [(_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    itself = [(_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, OWN_PID), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    checked = [(_CLONE, flags), (_PRLIMIT, itself), *([] if namespaces else [(_KILL, itself), (_TGKILL, itself)])]
    for numbers, rules in checked:
        program += [(_EQUAL, 0, len(rules) + 1, numbers[known.column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), *rules]
    return [*program, (_RETURN, 0, 0, _ALLOW)]
