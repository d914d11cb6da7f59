"""Programs that try to get out of the sandbox, or to harm what is around it.

Each stops by itself if nothing contains it: loops and allocations are bounded, sleeps are short, the only network
address is 127.0.0.1 and the only process that is ever signalled is one that the test started for it. One that has its
way prints ESCAPED. `$PORT`, `$VICTIM`, `$PARENT` and `$FOLDER` are filled in by the test: a listening port, a process
to kill, the test's own process, and a folder that anybody may read and write, with a file `secret` in it.
"""

ATTEMPTS = {
    "fork bomb": """
import os, time
made = 0
for _ in range(300):
    try:
        if os.fork() == 0:
            time.sleep(3); os._exit(0)
        made += 1
    except OSError:
        break
print("ESCAPED" if made > 32 else made)
""",
    "memory bomb": """
kept = [bytearray(b"x" * (16 << 20)) for _ in range(64)]
print("ESCAPED")
""",
    "endless output": """
import sys
for _ in range(1024):
    sys.stdout.write("x" * (1 << 16))
print("ESCAPED", file=sys.stderr)
""",
    "endless errors": """
import sys
for _ in range(1024):
    sys.stderr.write("x" * (1 << 16))
print("ESCAPED")
""",
    "writing outside": """
import os
for path in ("$FOLDER/written", "/etc/learnalign-test", "/usr/learnalign-test", os.__file__ + ".new", "/learnalign"):
    try:
        open(path, "w").write("x")
        print("ESCAPED", path)
    except OSError as error:
        print(error)
""",
    "reading outside": """
for path in ("$FOLDER/secret", "/etc/passwd", "/etc/shadow", "/root/.bashrc", "/home"):
    try:
        open(path).read()
        print("ESCAPED", path)
    except OSError as error:
        print(error)
""",
    "reading the environment": """
import os
print("ESCAPED" if set(os.environ) - {"PYTHONHASHSEED", "LC_CTYPE"} else dict(os.environ))
for pid in ("self", "1", "$PARENT"):
    try:
        print("ESCAPED" if b"PATH" in open(f"/proc/{pid}/environ", "rb").read() else "")
    except OSError as error:
        print(error)
""",
    "a TCP socket": """
import socket
socket.create_connection(("127.0.0.1", $PORT), timeout=1)
print("ESCAPED")
""",
    "a UDP socket": """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", $PORT))
print("ESCAPED")
""",
    "a Unix socket": """
import socket
for address in ("$FOLDER/socket", "\\0learnalign-test-$PORT"):
    try:
        socket.socket(socket.AF_UNIX).connect(address)
        print("ESCAPED", repr(address))
    except OSError as error:
        print(error)
""",
    "ptrace": """
import ctypes
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
libc = ctypes.CDLL(None)
for pid in ($VICTIM, $PARENT):
    if libc.ptrace(PTRACE_ATTACH, pid, None, None) == 0:
        libc.ptrace(PTRACE_DETACH, pid, None, None)
        print("ESCAPED")
""",
    "reading the parent in /proc": """
import os
for pid in (os.getppid(), $PARENT):
    for name in ("mem", "cmdline", "maps", "fd/0", "root/etc/passwd", "cwd/pyproject.toml"):
        try:
            open(f"/proc/{pid}/{name}", "rb").close()
            print("ESCAPED", name)
        except OSError as error:
            print(error)
""",
    "killing another process": """
import os, signal
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill($VICTIM, number)
        print("ESCAPED")
    except OSError as error:
        print(error)
""",
    "stopping its parent": """
import os, signal
parent = os.getppid()
if parent:
    os.kill(parent, signal.SIGSTOP)
    print("ESCAPED")
""",
    "a symbolic link": """
import os
for target in ("$FOLDER/secret", "$FOLDER/written"):
    os.symlink(target, "link")
    try:
        open("link", "r" if "secret" in target else "w").close()
        print("ESCAPED")
    except OSError as error:
        print(error)
    os.unlink("link")
os.symlink("$FOLDER", "program.py.d")
os.symlink("/", "root")
print(sorted(os.listdir("root")))
""",
    "a hard link": """
import os
os.link("$FOLDER/secret", "link")
print("ESCAPED")
""",
    "a double fork": """
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(10)
    os._exit(0)
os.wait()
print("left")
""",
    "a session of its own": """
import os, time
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        os.close(number)
    if os.fork() == 0:
        os.setpgid(0, 0)
        time.sleep(10)
    os._exit(0)
os.wait()
print("left")
""",
    "sleep": """
import time
time.sleep(20)
print("ESCAPED")
""",
    "a busy loop": """
import time
end = time.monotonic() + 20
while time.monotonic() < end:
    pass
print("ESCAPED")
""",
    "signal handlers": """
import signal, time
for number in range(1, signal.NSIG):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
end = time.monotonic() + 20
while time.monotonic() < end:
    pass
print("ESCAPED")
""",
    "a catastrophic regular expression": """
import re
re.fullmatch("(a+)+", "a" * 34 + "b")
print("ESCAPED")
""",
    "closed descriptors": """
import os, time
os.closerange(0, 256)
time.sleep(20)
""",
    "descriptors of others": """
import os
for number in range(3, 1024):
    try:
        os.fstat(number)
        print("ESCAPED", number)
    except OSError:
        pass
""",
    "a huge file": """
with open("huge", "wb") as file:
    for _ in range(64):
        file.write(b"x" * (1 << 20))
print("ESCAPED")
""",
    "a huge sparse file": """
with open("huge", "wb") as file:
    file.truncate(1 << 30)
print("ESCAPED")
""",
    "many large files": """
for number in range(32):
    with open(f"large{number}", "wb") as file:
        file.write(b"x" * (15 << 20))
print("ESCAPED")
""",
    "many files": """
for number in range(6000):
    open(f"file{number}", "w").close()
print("ESCAPED")
""",
    "many open files": """
kept = [open("program.py") for _ in range(500)]
print("ESCAPED")
""",
    "many threads": """
import threading, time
threads = []
for _ in range(300):
    thread = threading.Thread(target=time.sleep, args=(2,), daemon=True)
    thread.start()
    threads.append(thread)
    if len(threads) > 32:
        print("ESCAPED")
        break
""",
    "abuse of standard input": """
import os, sys
given = os.read(0, 1 << 20)
print("ESCAPED" if given != b"given" or os.read(0, 1 << 20) else given)
try:
    os.write(0, b"x")
    print("ESCAPED")
except OSError as error:
    print(error)
""",
    "deep recursion": """
import sys
sys.setrecursionlimit(10**8)
f = lambda n: f(n - 1) + 1 if n else 0
f(10**6)
deep = eval("[" * 90 + "]" * 90)
import json
class Deep:
    def __repr__(self): return repr(self)
repr(Deep())
print("ESCAPED")
""",
    "exec of a shell": """
import os
os.execv("/bin/sh", ["sh", "-c", "cat $FOLDER/secret && echo ESCAPED; echo x > $FOLDER/written; (sleep 10.1&) ; id -u"])
""",
    "namespaces of its own": """
import ctypes
libc = ctypes.CDLL(None)
for flag in (0x10000000, 0x20000, 0x40000000):
    if libc.unshare(flag) == 0:
        print("ESCAPED", hex(flag))
""",
    "mount and chroot": """
import ctypes, os
libc = ctypes.CDLL(None)
if libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0:
    print("ESCAPED")
os.mkdir("jail")
os.chroot("jail")
print("ESCAPED")
""",
    "privileges": """
import os
print("ESCAPED" if 0 in (os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()) else "")
os.setuid(0)
print("ESCAPED")
""",
    "higher limits": """
import resource
for name in ("AS", "CPU", "NPROC", "FSIZE", "NOFILE", "CORE"):
    limit = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(limit)
    try:
        resource.setrlimit(limit, (hard + 1, hard + 1))
        print("ESCAPED", name)
    except (OSError, ValueError) as error:
        print(error)
""",
    "devices": """
import os, stat
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/shm/x"):
    try:
        open(path, "rb+").close()
        print("ESCAPED", path)
    except OSError as error:
        print(error)
os.mknod("mem", stat.S_IFCHR | 0o666, os.makedev(1, 1))
print("ESCAPED")
""",
    "running a file of its own": """
import os, stat, subprocess
with open("tool", "w") as file:
    file.write("#!/bin/sh\\ncat $FOLDER/secret && echo ESCAPED")
os.chmod("tool", 0o4755)
print(subprocess.run(["./tool"], capture_output=True).stdout.decode())
""",
    "signals to everybody": """
import os, signal
for pid in (-1, 0):
    if os.fork() == 0:
        if pid == 0: os.setpgid(0, 0)
        os.kill(pid, signal.SIGCONT)
        os._exit(0)
for pid in (0, -1):
    if os.fork() == 0:
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
""",
    "System V segments": """
import ctypes
libc = ctypes.CDLL(None)
kept = [libc.shmget(0, 64 << 20, 0o1600) for _ in range(8)]
for one in kept:
    if one >= 0:
        libc.shmctl(one, 0, None)
        print("ESCAPED", one)
""",
    "memory in descriptors": """
import ctypes, os, socket
try:
    kept = os.memfd_create("kept")
    print("ESCAPED", kept)
except (OSError, AttributeError) as error:
    print(error)
if ctypes.CDLL(None).msgget(0, 0o1600) >= 0:
    print("ESCAPED")
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK, 38):
    try:
        socket.socket(family, socket.SOCK_DGRAM if family < 20 else socket.SOCK_SEQPACKET)
        print("ESCAPED", family)
    except OSError as error:
        print(error)
""",
    "the session keyring": """
import ctypes
libc = ctypes.CDLL(None)
number = {"x86_64": 248, "aarch64": 217}[__import__("os").uname().machine]
if libc.syscall(number, b"user", b"learnalign-test", b"x", 1, -3) >= 0:
    print("ESCAPED")
""",
    "dangerous system calls": """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
x86 = os.uname().machine == "x86_64"
buffer = ctypes.create_string_buffer(512)
for name, number, arguments in (
    ("io_uring_setup", 425, (1, buffer)), ("userfaultfd", 323 if x86 else 282, (1,)),
    ("bpf", 321 if x86 else 280, (0, buffer, 0)), ("perf_event_open", 298 if x86 else 241, (buffer, 0, -1, -1, 0)),
    ("unshare", 272 if x86 else 97, (0x10000000,)), ("clone", 56 if x86 else 220, (0x10000011, 0, 0, 0, 0)),
    ("clone3", 435, (buffer, 0)), ("fsopen", 430, (b"tmpfs", 0)), ("keyctl", 250 if x86 else 219, (0, -3, 1)),
):
    found = libc.syscall(number, *arguments)
    if found == 0 and name == "clone": os._exit(0)
    if found >= 0 or ctypes.get_errno() != (38 if name == "clone3" else 1):
        print("ESCAPED", name, found, ctypes.get_errno())
if x86 and libc.syscall(0x40000000 + 39) >= 0:
    print("ESCAPED x32")
""",
    "limits of others": """
import resource
for pid in ($VICTIM, $PARENT):
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
        print("ESCAPED")
    except OSError as error:
        print(error)
""",
}
