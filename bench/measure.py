"""What every bench needs: --quick, the machine in words, versions, the best of interleaved runs, the last line of JSON.

Other work on the machine slows everything down for a while, so what is compared is run in turns and the best time
of each is kept. This module decides nothing about what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any


def asked_quick(script: str | None, meaning: str) -> bool:
    """Whether a script that knows no other option is run with --quick; `script`: its docstring."""
    parser = argparse.ArgumentParser(description=(script or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=meaning)
    return bool(parser.parse_args().quick)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and how busy it is."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "load": round(os.getloadavg()[0], 1),
        "simd": simd(),
        "python": platform.python_version(),
    }


def simd() -> str:
    """What the C++ core runs on; of a core that was not built, that."""
    try:
        from learnalign import _core
    except ImportError as error:
        return f"not built ({error})"
    return _core.simd()


def versions(*names: str) -> dict[str, str | None]:
    """Installed versions; None where a package is missing."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def best(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Seconds of the fastest of `repeats` runs of each, taken in turns."""
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def table(seconds: Mapping[str, float], floor: str) -> None:
    """One line a run: seconds and the ratio to the floor."""
    for name, value in seconds.items():
        print(f"  {name:<28}{value:>10.4f} s{value / seconds[floor]:>9.2f} x {floor}", flush=True)


class Peak:
    """The largest anonymous memory of this process while a block runs, above that before it, in bytes.

    every: seconds between two looks.
    """

    def __init__(self, every: float = 0.05) -> None:
        self._every = every

    def __enter__(self) -> Peak:
        self._before, self.grown, self._done = kernel_bytes("RssAnon"), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self.grown = max(self.grown, kernel_bytes("RssAnon") - self._before)

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def kernel_bytes(name: str, file: str = "/proc/self/status") -> int:
    """A line of the kernel's, such as `RssAnon:  1234 kB` (memory of this process that is no mapped file), in bytes."""
    with open(file) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def finish(question: str, result: Mapping[str, Any], *packages: str) -> None:
    """The last line: everything as one JSON object."""
    print(json.dumps({"bench": question, **result, "machine": machine(), "versions": versions(*packages)}))
