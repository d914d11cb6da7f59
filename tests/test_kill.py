"""Killed with SIGKILL at random instants and resumed, a run ends byte for byte like one that was never stopped."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY

pytestmark = pytest.mark.slow

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
        copy = broken / part.relative_to(whole)
        assert copy.read_bytes() == part.read_bytes(), part.name


def test_killed_while_the_verifier_hangs(tmp_path: Path) -> None:
    """On the prompt that is judged last: earlier verdicts are kept, and it is a timeout, as in a run never killed."""
    pool = write_pool(tmp_path / "pool.jsonl", 24, seed=1)
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    last = min(reversed(rows), key=lambda row: len(row["problem"]))["id"]
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\n"
        "def reward(completions, prompts, id, answer, **columns):\n"
        f"    if id[0] == {last!r}:\n"
        f"        pathlib.Path({str(tmp_path / 'hangs')!r}).touch()\n"
        "        time.sleep(1000)\n"
        "    return [float(gold in text) for text, gold in zip(completions, answer)]\n"
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    judged = [
        f"reward.verifier={tmp_path / 'mine.py'}:reward",
        "reward.timeout_seconds=1.5",
    ]  # 8 responses: 12 s, which only a hang uses up

    def asked(run: Path) -> list[str]:
        return [*command(run, pool), *(part for setting in judged for part in ("--set", setting))]

    subprocess.run(asked(whole), check=True, timeout=300, stdout=subprocess.DEVNULL)
    (tmp_path / "hangs").unlink()
    process = subprocess.Popen(asked(broken), stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "hangs").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the kill must come before the end"
    parts = sorted(path.name for path in (whole / "rewards").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in (broken / "rewards").glob("part-*.parquet")}
    assert sorted(path.name for path in kept) == parts[:-1]
    subprocess.run(asked(broken), check=True, timeout=300, stdout=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    how = {row["how"] for row in pq.read_table(broken / "rewards" / parts[-1]).to_pylist() if row["prompt_id"] == last}
    assert how == {"timeout"}
    for name in (*RESULTS, *(f"rewards/{part}" for part in parts)):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
