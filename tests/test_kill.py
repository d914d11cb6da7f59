"""Killed with SIGKILL at random instants and resumed, a run ends byte for byte like one that was never stopped."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY

KILLS = 20
RESULTS = ("scores.parquet", "selection.jsonl", "selection.parquet", "picks.parquet")


def command(run: Path, pool: Path) -> list[str]:
    settings = ("rollout.max_new_tokens=16", "rollout.batch_sequences=64", "sketch.batch_tokens=1024")
    return [
        *(
            sys.executable,
            "-m",
            "learnalign.cli",
            "run",
            str(run),
            "--pool",
            str(pool),
            "--model",
            str(POLICY),
        ),
        *("--select", "20", "--quiet", "--set", "reward.verifier=exact"),
        *(part for setting in settings for part in ("--set", setting)),
    ]


def state(run: Path) -> tuple[tuple[str, ...], int]:
    """How far a run is: the files that are there, and bytes of the sketch journal."""
    files = sorted(str(path) for path in run.rglob("*"))
    journal = run / "sketches" / "shard-00000.index"
    return tuple(files), journal.stat().st_size if journal.exists() else 0


def test_killed_at_random_and_resumed_is_byte_identical(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", 224, seed=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole, pool), check=True, timeout=300, stdout=subprocess.DEVNULL)
    rng = random.Random(0)
    kills, stopped_at = 0, set()
    while kills < KILLS:
        process = subprocess.Popen(command(broken, pool), stdout=subprocess.DEVNULL)
        # Most of a short run is imports. Instants that matter lie around changes in the directory.
        for _ in range(rng.randint(1, 16)):
            seen = state(broken)
            while process.poll() is None and state(broken) == seen:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is not None:  # finished before its instant came: begin again from nothing
            assert process.returncode == 0
            shutil.rmtree(broken)
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        stopped_at.add(state(broken))
    subprocess.run(command(broken, pool), check=True, timeout=300, stdout=subprocess.DEVNULL)
    assert len(stopped_at) > KILLS // 2, "the kills must have hit different moments"
    for name in RESULTS:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    for part in sorted((whole / "rollouts").iterdir()) + sorted((whole / "sketches").iterdir()):
        twin = broken / part.relative_to(whole)
        assert twin.read_bytes() == part.read_bytes(), part.name
