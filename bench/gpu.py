"""The parts of bench/gpu.sh, each in a process of its own with a time limit: run, table, JSON, exit code.

A part that fails or takes too long stops nothing, is named in the table and the result, and makes the exit code 1; a
bar that is missed does not. What does not fit into `TOTAL_SECONDS` is not begun, and counts as a failure. The result,
`gpu.json`, is written after every part, beside the parts' logs. This module needs the standard library alone, so that
a broken build is a line in its table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOTAL_SECONDS = 780.0
"""Of 15 minutes, of which the machine takes some to start and to be given back."""
REHEARSAL = 6.0
"""How much longer a part may take in a rehearsal, interpreted on a busy CPU."""
TESTS = {
    "tests": ["tests/test_devices.py", "tests/test_fold_kernels.py"],
    "tests-head": ["tests/test_logprob.py", "tests/test_score_kernels.py"],
}
BUILT = ["-o", "pythonpath=tests"]
"""The project's own setting puts the repository's root first, where the package has no extension."""
LAUNCHES = "tests/launch_kernels_program.py"
SANITIZER_FAILS = "13"


@dataclass(frozen=True)
class Part:
    """One command."""

    name: str
    limit: float
    """Seconds."""
    command: Sequence[str]
    absent: str = ""
    """Why it cannot run here, where it cannot; that is no failure."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a part."""

    name: str
    status: str
    """`ok`, `failed (exit code)`, `too slow (limit)`, `not begun`, or `not here: why`."""
    seconds: float
    result: Any = None
    """The JSON object of a bench's last line."""

    @property
    def good(self) -> bool:
        """Whether it leaves the exit code at 0."""
        return self.status == "ok" or self.status.startswith("not here")


def main() -> int:
    """Run what was asked for; 0, 1 for a part that failed, or 2 for what cannot be begun."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="small sizes, no GPU")
    parser.add_argument("--only", nargs="+", metavar="PART", default=[], help="these parts; the first needs `build`")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "gpu-results", help="of JSON and logs")
    asked = parser.parse_args()
    everything = parts(asked.rehearse)
    unknown = set(asked.only) - {part.name for part in everything}
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(part.name for part in everything)}")
    if not asked.rehearse and subprocess.run([*python("-c"), SEES_A_GPU], check=False).returncode:
        print("bench/gpu.sh: torch sees no GPU here; --rehearse runs without one", file=sys.stderr)
        return 2
    chosen = [part for part in everything if not asked.only or part.name in asked.only]
    return run_parts(chosen, asked.folder, float("inf") if asked.rehearse else TOTAL_SECONDS)


SEES_A_GPU = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def python(*arguments: str) -> list[str]:
    """This interpreter's command."""
    return [sys.executable, *arguments]


def parts(rehearse: bool) -> list[Part]:
    """In the order in which they matter."""
    quick = ["--quick"] if rehearse else []
    slower = REHEARSAL if rehearse else 1.0
    side_by_side = ["-n", "8"] if find_spec("xdist") and not rehearse else []  # compiling takes most of their time

    def bench(module: str, limit: float, *options: str, name: str = "") -> Part:
        return Part(name or module, slower * limit, python("-m", f"bench.{module}", *options, *quick))

    def tests(name: str, limit: float) -> Part:
        return Part(name, slower * limit, python("-m", "pytest", "-q", *BUILT, *side_by_side, *TESTS[name]))

    def sized(module: str, shape: str, groups: int, tokens: tuple[int, int], limit: float, *options: str) -> Part:
        size = ["--shape", shape, "--groups", str(groups), "--response-tokens", *map(str, tokens)]
        return bench(module, limit, *size, *options, name=f"{module}-{shape}-{tokens[1]}")

    large, small = "qwen2.5-1.5b", "qwen2.5-0.5b"
    begin = [
        Part("build", slower * 120, ["bash", "bench/gpu.sh", "--build"]),
        bench("ceilings", 40),
        tests("tests", 150),
        bench("fold", 110),
    ]
    if rehearse:
        tiny = ("smollm2-135m", 1, (60, 120))
        return [
            *begin,
            sized("sketch", *tiny, 70, "--skip-less"),
            sized("passes", *tiny, 60),
            sized("passes", "olmoe-1b-7b", 1, (10, 20), 60),
            bench("head", 70),
            bench("gpu_neighbors", 50),
            tests("tests-head", 100),
            bench("gpu_score", 50),
            Part("launches", slower * 40, python(LAUNCHES)),
        ]
    return [
        *begin,
        sized("sketch", large, 8, (300, 300), 90, "--skip-less"),
        sized("passes", large, 32, (300, 300), 40),
        sized("sketch", large, 16, (60, 120), 60, "--skip-less"),
        sized("sketch", large, 4, (1024, 1024), 70, "--skip-less"),
        bench("head", 60),
        sized("passes", "qwen2.5-7b", 16, (300, 300), 60),
        sized("passes", "olmoe-1b-7b", 16, (300, 300), 60),
        bench("gpu_neighbors", 50),
        tests("tests-head", 100),
        sized("sketch", small, 8, (300, 300), 60, "--skip-less"),
        bench("gpu_score", 50),
        *sanitizers(),
    ]


def sanitizers() -> list[Part]:
    """Every Triton kernel on small ragged shapes under compute-sanitizer, looked for on PATH and beside nvcc."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(Path(nvcc).parent))
    if tool is None:
        absent = "compute-sanitizer is neither on PATH nor beside nvcc"
        return [Part(name, 0.0, [], absent) for name in ("memcheck", "racecheck")]
    exact = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # torch's own pool would hide what lies past the end of a tensor
    return [
        Part(name, 70, [tool, "--tool", name, "--error-exitcode", SANITIZER_FAILS, *python(LAUNCHES)], "", exact)
        for name in ("memcheck", "racecheck")
    ]


def run_parts(chosen: Sequence[Part], folder: Path, total_seconds: float) -> int:
    """Run them one after another, print the table last; 1 where one failed."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + total_seconds
    outcomes: list[Outcome] = []
    for part in chosen:
        print(f"\n== {part.name}", flush=True)
        outcomes.append(run_part(part, folder / f"{part.name}.log", deadline - time.monotonic()))
        (folder / "gpu.json").write_text(
            json.dumps({"parts": [asdict(outcome) for outcome in outcomes]}, indent=1) + "\n"
        )
    print(table(outcomes))
    print(f"written: {folder / 'gpu.json'} and a log a part beside it")
    return int(not all(outcome.good for outcome in outcomes))


def run_part(part: Part, log: Path, seconds_left: float) -> Outcome:
    """One part; its output goes to the log, and is shown once it has ended."""
    if part.absent:
        print(part.absent)
        return Outcome(part.name, f"not here: {part.absent}", 0.0)
    limit = min(part.limit, seconds_left)
    if limit <= 0:
        return Outcome(part.name, "not begun", 0.0)
    start = time.monotonic()
    environment = {**os.environ, **part.environment, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            status = "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            status = f"too slow ({limit:.0f} s)"
        finally:  # also after Ctrl-C: nothing it started may go on
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    output = log.read_text(errors="replace")
    print(output, end="", flush=True)
    return Outcome(part.name, status, round(time.monotonic() - start, 1), last_json(output) if status == "ok" else None)


def last_json(output: str) -> Any:
    """The object on the last line; None where there is none."""
    lines = output.rstrip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return None
    try:
        return json.loads(lines[-1])
    except ValueError:
        return None


def table(outcomes: Sequence[Outcome]) -> str:
    """Two lines a part at most."""
    lines = ["", f"{'part':<24}{'seconds':>8}  status"]
    for outcome in outcomes:
        found = outcome.result or {}
        bars = found.get("bars_met") or {}
        missed = [name for name, met in bars.items() if not met]
        verdict = f"; misses its bar: {', '.join(missed)}" if missed else "; bars met" if bars else ""
        lines.append(f"{outcome.name:<24}{outcome.seconds:>8.1f}  {outcome.status}{verdict}")
        if "summary" in found:
            lines.append(f"{'':<34}{found['summary']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
