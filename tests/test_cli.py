"""The command line: bad input is one clear line and exit code 2; results go to standard output."""

from __future__ import annotations

import json
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
from learnalign.store import SketchReader

Result = subprocess.CompletedProcess[str]


def learnalign(*arguments: object, cwd: Path | None = None) -> Result:
    command = [sys.executable, "-m", "learnalign.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def refused(result: Result, *fragments: str) -> None:
    """Exit code 2 and a single line that holds every fragment."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("learnalign: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for fragment in fragments:
        assert fragment in lines[0]


def edited_policy(folder: Path, **changes: object) -> Path:
    """The shipped policy with its tokenizer's settings changed."""
    policy = Path(shutil.copytree(POLICY, folder / "policy"))
    file = policy / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.update(changes)
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return policy


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool.jsonl", 28)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ("pool.jsonl",)),
        ('{"problem": "1+1", "answer": "2"}\n{"problem": \n', ("pool.jsonl", "2")),
        ('{"id": "a", "problem": "1+1", "answer": "2"}\n' * 2, ("'a'",)),
        ('{"problem": "1+1", "level": 3}\n', ("answer", "problem", "level")),
    ],
    ids=["empty", "malformed line", "duplicate ids", "no answer column"],
)
def test_bad_pools(tmp_path: Path, text: str, fragments: tuple[str, ...]) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(text)
    refused(learnalign("run", tmp_path / "run", "--pool", file, "--model", POLICY, "--select", 1), *fragments)


def test_bad_arguments(tmp_path: Path, pool: Path) -> None:
    run = tmp_path / "run"
    refused(learnalign("run", run, "--pool", tmp_path / "nothing.jsonl", "--model", POLICY), "nothing.jsonl")
    refused(learnalign("run", run, "--pool", pool, "--model", POLICY, "--select", 0), "select.n", "0")
    refused(learnalign("run", run, "--pool", pool, "--model", POLICY, "--select", 29), "29", "28")
    fresh = (tmp_path / f"run-{k}" for k in range(9))
    refused(learnalign("run", next(fresh), "--model", POLICY), "--pool")
    refused(learnalign("run", next(fresh), "--pool", pool, "--select", 5), "--model")
    missing = tmp_path / "no-model"
    refused(learnalign("run", next(fresh), "--pool", pool, "--model", missing, "--select", 5), "no-model")
    refused(learnalign("run", next(fresh), "--pool", pool, "--model", POLICY, "--select", 5), "context of 64")
    refused(learnalign("run", next(fresh), "--set", "rollout.sede=1"), "rollout.sede")
    refused(learnalign("run", next(fresh), "--config", tmp_path / "no.toml"), "no.toml")
    refused(learnalign("status", tmp_path), str(tmp_path), "run directory")
    refused(learnalign("check", tmp_path), str(tmp_path), "run directory")


def test_a_tokenizer_without_a_pad_token_is_refused_with_the_way_out(tmp_path: Path, pool: Path) -> None:
    policy = edited_policy(tmp_path, pad_token=None)
    core = json.loads((policy / "tokenizer.json").read_text())
    (policy / "tokenizer.json").write_text(json.dumps({**core, "padding": None}))
    arguments = ("rollout", tmp_path / "run", "--pool", pool, "--model", policy, "--select", 3)
    refused(learnalign(*arguments), "no pad token", "policy.pad_token")
    told = learnalign(*arguments, "--set", "policy.pad_token=</s>", "--set", "rollout.max_new_tokens=4")
    assert told.returncode == 0, told.stderr


def test_messages_that_the_chat_template_refuses_are_named(tmp_path: Path) -> None:
    policy = edited_policy(tmp_path)
    template = "{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}="
    (policy / "chat_template.jinja").write_text(template)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12+7"}]
    pool = tmp_path / "pool.jsonl"
    pool.write_text(json.dumps({"prompt": chat, "answer": "19"}) + "\n")
    result = learnalign("rollout", tmp_path / "run", "--pool", pool, "--model", policy, "--select", 1)
    refused(result, "'12+7'", "System role not supported")


def test_long_prompts_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    problems = ["12+7", "+".join(["12"] * 200), "sort 3241", "3+4", "31*7", "reverse 47261"]
    file.write_text("".join(json.dumps({"id": p[:9], "problem": p, "answer": "1"}) + "\n" for p in problems))
    run = tmp_path / "run"
    arguments = ("--pool", file, "--model", POLICY, "--select", 6, "--set", "rollout.max_new_tokens=8")
    result = learnalign("run", run, *arguments, "--set", "reward.verifier=exact", "--json")
    assert result.returncode == 0, result.stderr
    stages = json.loads(result.stdout)["stages"]
    assert stages["rollout"]["skipped"] == 1
    assert "1 prompts skipped" in stages["rollout"]["notes"][0]
    scores = pq.read_table(run / "scores.parquet").to_pylist()
    assert [row["state"] for row in scores].count("skipped") == 1
    assert "context" in scores[1]["reason"]
    assert scores[1]["reason"] in (run / "report.html").read_text()
    assert len((run / "selection.jsonl").read_text().splitlines()) == 5


def test_stages_one_by_one_and_questions_about_them(tmp_path: Path, pool: Path) -> None:
    run = tmp_path / "run"
    first = learnalign(
        *("rollout", run, "--pool", pool, "--model", POLICY, "--select", 4),
        *("--set", "rollout.max_new_tokens=16", "--set", "reward.verifier=exact"),
    )
    assert first.returncode == 0, first.stderr
    assert "224 rows" in first.stdout
    for verb in ("reward", "sketch", "score", "select"):
        result = learnalign(verb, run)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{verb}: ")
    table = json.loads(learnalign("status", run, "--json").stdout)["stages"]
    states = {row["stage"]: row["state"] for row in table}
    assert states == {**dict.fromkeys(states, "done"), "report": "not started"}
    last = learnalign("report", run, "--quiet")
    assert last.returncode == 0
    assert last.stderr == ""
    assert "selection.jsonl" in last.stdout
    assert learnalign("check", run).returncode == 0
    with pool.open("a") as file:
        file.write('{"id": "new", "problem": "2+2", "answer": "4"}\n')
    shown = learnalign("status", run).stdout
    assert "stale" in shown
    assert "pool file" in shown
    (run / "scores.parquet").write_bytes(b"PAR1")
    damaged = learnalign("check", run)
    assert damaged.returncode == 1
    assert "scores.parquet" in damaged.stdout


def test_damaged_sketches_are_named_set_aside_and_made_again(tmp_path: Path, pool: Path) -> None:
    """Bits flipped in rows and in a record; after check --repair and run every file is that of before."""
    run = tmp_path / "run"
    settings = ("rollout.max_new_tokens=16", "reward.verifier=exact", "sketch.dimension=512", "sketch.batch_tokens=150")
    begun = learnalign(
        *("run", run, "--pool", pool, "--model", POLICY, "--select", 4),
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert begun.returncode == 0, begun.stderr
    results = [*run.glob("sketches/*"), run / "scores.parquet", run / "selection.jsonl"]
    before = {path: path.read_bytes() for path in results}
    ids = SketchReader(run / "sketches").prompt_ids
    data, index = (run / "sketches" / f"shard-00000.{end}" for end in ("npy", "index"))
    for path, byte in ((data, 4096 + 3), (index, len(before[index]) - 60)):
        content = bytearray(path.read_bytes())
        content[byte] ^= 16
        path.write_bytes(content)

    found = learnalign("check", run)
    assert found.returncode == 1
    assert "--repair" in found.stdout
    assert "shard-00000.index: no valid record in bytes" in found.stdout
    repaired = learnalign("check", run, "--repair")
    assert repaired.returncode == 0, repaired.stdout
    kept = SketchReader(run / "sketches").prompt_ids
    assert 0 < len(kept) < len(ids)
    again = learnalign("run", run)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of {len(ids)} gradients were there" in again.stderr
    assert {path: path.read_bytes() for path in results} == before
    assert learnalign("check", run).returncode == 0

    data.write_bytes(before[data][:4096] + b"\x7f" + before[data][4097:])
    found = learnalign("check", run)
    assert found.returncode == 1
    assert "shard-00000.npy: checksum mismatch in rows 0 to" in found.stdout
    assert f": prompts {ids[0]}" in found.stdout


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    pool, run = write_pool(tmp_path / "pool.jsonl", 600), tmp_path / "run"
    command = [sys.executable, "-m", "learnalign.cli", "run", str(run), "--pool", str(pool), "--model", str(POLICY)]
    command += ["--select", "9", "--set", "rollout.max_new_tokens=16"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("rollouts/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted; give the same command again" in stderr
    assert "Traceback" not in stderr
    states = {row["stage"]: row["state"] for row in json.loads(learnalign("status", run, "--json").stdout)["stages"]}
    assert (states["pool"], states["rollout"], states["sketch"]) == ("done", "interrupted", "not started")


def test_disk_full_is_one_line_and_what_was_done_stays(tmp_path: Path, pool: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: writes fail with EFBIG part of the way."""
    run = tmp_path / "run"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY));"
        "from learnalign.cli import main; main()"
    )
    arguments = [
        "run",
        run,
        "--pool",
        pool,
        "--model",
        POLICY,
        "--select",
        4,
        "--set",
        "rollout.max_new_tokens=16",
    ]
    arguments += ["--set", "reward.verifier=exact"]
    command = [sys.executable, "-c", code, "60000", *map(str, arguments)]
    full = subprocess.run(command, capture_output=True, text=True, timeout=300)
    refused(full, str(run))
    kept = sorted((run / "rollouts").glob("part-*.parquet"))
    assert kept
    before = [p.stat().st_mtime_ns for p in kept]
    assert learnalign(*arguments).returncode == 0
    assert [p.stat().st_mtime_ns for p in kept] == before
