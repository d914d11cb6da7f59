"""The command line: bad input is one clear line and exit code 2; results go to standard output."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from learnalign.cli import app
from learnalign.config import Config, PoolConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.errors import PoolError
from learnalign.pool import read_pool
from learnalign.pool.export import write_selection
from learnalign.pool.rows import row_reader
from learnalign.pool.sources import pool_files
from learnalign.store import SketchReader

SOURCES = [
    path
    for path in sorted((Path(__file__).parent.parent / "learnalign").rglob("*.py"))
    if path.name != "train.py" and "examples" not in path.parts  # scripts with options of their own
]
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
        ('{"problem": "1+1", "level": 3}\n', ("answer", "problem", "level")),
    ],
    ids=["empty", "malformed line", "no answer column"],
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
    deadline = time.monotonic() + 600
    while not list(run.glob("rollouts/part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
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


def test_every_command_is_a_whole_sentence_at_eighty_columns() -> None:
    shown = learnalign("--help").stdout
    commands = [line.split(maxsplit=1) for line in shown[shown.index("Commands:") :].splitlines()[1:]]
    assert {name for name, _ in commands} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert all(text[0].isupper() and text.endswith(".") and "..." not in text for _, text in commands)
    assert "--install-completion" in shown


def test_the_version_is_said() -> None:
    import learnalign as package

    expected = f"learnalign {version('learnalign')}\n"
    assert learnalign("--version").stdout == expected
    module = subprocess.run([sys.executable, "-P", "-m", "learnalign", "--version"], capture_output=True, text=True)
    assert module.stdout == expected
    assert package.__version__ == version("learnalign")


OTHERS = {"--version", "--head", "--logprobs-mode", "--no-enable-chunked-prefill", "--repo-type"}
"""Options of the command itself, and of other programs, that a message may name."""


def strings(tree: ast.AST) -> Iterator[str]:
    """The texts of a module but its docstrings."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_messages_name_options_and_settings_that_there_are() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {name for command in commands for option in command.params for name in option.opts} | OTHERS
    sections = "|".join(Config.__dataclass_fields__)
    texts = [text for path in SOURCES for text in strings(ast.parse(path.read_text()))]
    assert len(texts) > 1000
    for text in texts:
        for option in re.findall(r"(?<![\w(-])--[a-z][a-z-]+", text):
            assert option in options, text
        for section, name in re.findall(rf"(?<![\w./])({sections})\.([a-z_]+)(?![\w./(])", text):
            assert name in ("parquet", "jsonl", "json", "html", "partial", "py") or hasattr(
                getattr(Config(), section), name
            ), text


def test_roles_of_columns_are_options(tmp_path: Path) -> None:
    rows = [{"q": f"{k}+1", "a": str(k + 1), "key": f"k{k}", "from": "sums"} for k in range(4)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--problem-column", "q", "--answer-column", "a", "--id-column", "key", "--source-column", "from")
    arguments = ("--pool", tmp_path / "odd.jsonl", "--model", POLICY, "--set", "rollout.max_new_tokens=16")
    missing = learnalign("rollout", tmp_path / "run", *arguments)
    refused(missing, "no problem column found", "name it with --problem-column")
    done = learnalign("rollout", tmp_path / "run", *arguments, "--select", 2, *columns)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "run" / "pool.parquet")
    assert table["prompt_id"].to_pylist() == ["k0", "k1", "k2", "k3"]
    assert set(table["source"].to_pylist()) == {"sums"}


def test_several_pools_in_one_run(tmp_path: Path) -> None:
    """Two files of different kinds and columns: both are sampled, and the selection holds the rows of both."""
    first = write_pool(tmp_path / "first.jsonl", 20, seed=1)
    rows = [json.loads(line) for line in write_pool(tmp_path / "rest.jsonl", 20, seed=2).open()]
    table = pa.table({"question": [r["problem"] for r in rows], "answer": [r["answer"] for r in rows]})
    pq.write_table(table, tmp_path / "second.parquet")
    arguments = ("--model", POLICY, "--set", "rollout.max_new_tokens=16", "--set", "reward.verifier=exact")
    pools = ("--pool", first, "--pool", tmp_path / "second.parquet")
    done = learnalign("run", tmp_path / "run", *pools, *arguments, "--select", 40, "--strategy", "random")
    assert done.returncode == 0, done.stderr
    pool = pq.read_table(tmp_path / "run" / "pool.parquet")
    assert pool.num_rows == 40
    assert pool["row"].to_pylist() == list(range(40))
    assert pool["source"].to_pylist() == ["first"] * 20 + ["second"] * 20
    picked = [json.loads(line) for line in (tmp_path / "run" / "selection.jsonl").open()]
    assert {row.get("problem") or row["question"] for row in picked} == {
        *(json.loads(line)["problem"] for line in first.open()),
        *table["question"].to_pylist(),
    }
    assert "different columns" in done.stderr
    refused(learnalign("run", tmp_path / "twice", "--pool", first, "--pool", first, *arguments), "is named twice")


def test_a_folder_a_glob_and_a_data_set_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "datasets--someone--sums" / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    for split in ("train", "test"):
        write_pool(snapshot / f"{split}-0.jsonl", 6, seed=len(split))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert [file.path.name for file in pool_files("someone/sums")] == ["train-0.jsonl"]
    assert len(pool_files(str(snapshot))) == len(pool_files(f"{snapshot}/*.jsonl")) == 2
    pool = read_pool(PoolConfig(path=(f"{snapshot}/train*", f"{snapshot}/test*"), limit=9))
    assert pool.prompts["source"].to_pylist() == ["train-0"] * 6 + ["test-0"] * 3
    for missing in ("someone/else", "someone/data-v1.5"):
        with pytest.raises(PoolError, match=rf"fetch it with 'hf download --repo-type dataset {missing}'"):
            pool_files(missing)
    link = tmp_path / "link.jsonl"
    link.symlink_to(snapshot / "train-0.jsonl")
    with pytest.raises(PoolError, match="is named twice"):
        pool_files((str(snapshot), str(link)))
    with pytest.raises(PoolError, match="no file matches"):
        pool_files(f"{snapshot}/*.parquet")


def test_ids_that_repeat_between_files_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "1", "problem": name, "answer": "2"}) + "\n")
    pool = read_pool(PoolConfig(path=(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))))
    assert pool.prompts["prompt_id"].to_pylist() == ["a/1", "b/1"]
    assert pool.notes == ("1 ids occur in more than one file: every id has its file's name in front",)
    copies = [tmp_path / folder / name for folder, name in (("x", "t.jsonl"), ("y", "t.jsonl"), ("z", "t-0.jsonl"))]
    for copy in copies:
        copy.parent.mkdir()
        copy.write_text(json.dumps({"id": "1", "problem": copy.parent.name, "answer": "2"}) + "\n")
    pool = read_pool(PoolConfig(path=tuple(map(str, copies))))
    assert pool.prompts["prompt_id"].to_pylist() == ["x/t/1", "y/t/1", "z/t-0/1"]
    assert row_reader((str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")))([1, 0])[0]["id"] == "1"


def cached(folder: Path, *files: str, revision: str = "abc", main: bool = True) -> None:
    """A data set `someone/sums` in a cache of the hub."""
    snapshot = folder / "datasets--someone--sums" / "snapshots" / revision
    for name in files:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text('{"problem": "1+1", "answer": "2"}\n')
    if main:
        (folder / "datasets--someone--sums" / "refs").mkdir(exist_ok=True)
        (folder / "datasets--someone--sums" / "refs" / "main").write_text(revision)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("main/train-0.jsonl", "socratic/train-0.jsonl"), r"several configurations: name a folder.*main.*socratic"),
        (("test.jsonl", "dataset_infos.json"), r"no training split \(dataset_infos\.json, test\.jsonl\)"),
        (("constraints.jsonl",), "no training split"),
    ],
)
def test_a_data_set_without_one_training_split_is_refused(
    files: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, *files)
    with pytest.raises(PoolError, match=message):
        pool_files("someone/sums")


def test_the_main_revision_of_a_data_set_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, "train.jsonl", revision="new")
    cached(tmp_path, "train.jsonl", revision="old", main=False)
    assert pool_files("someone/sums")[0].path.parent.name == "new"
    (tmp_path / "datasets--someone--sums" / "refs" / "main").unlink()
    with pytest.raises(PoolError, match="cached in 2 revisions"):
        pool_files("someone/sums")


def test_columns_of_two_types_keep_their_values(tmp_path: Path) -> None:
    """72 of one file beside 1.5 of another stays 72; a date beside text becomes text, and a note says so."""
    first = {"problem": ["a"], "answer": [72], "day": [date(2024, 2, 29)]}
    second = {"problem": ["b"], "answer": [1.5], "day": ["friday"]}
    for name, columns in (("first", first), ("second", second)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    paths = tuple(str(tmp_path / f"{name}.parquet") for name in ("first", "second"))
    written = write_selection(paths, [1, 0], {}, tmp_path)
    lines = [json.loads(line) for line in written.jsonl.open()]
    assert [line["answer"] for line in lines] == [1.5, 72]
    assert pq.read_table(written.parquet)["day"].to_pylist() == ['"friday"', '"2024-02-29"']
    assert any("column 'day' cannot be an Arrow column" in note for note in written.notes)


def test_a_run_of_before_is_refused_by_every_command(tmp_path: Path) -> None:
    """Its configuration has sections that are unknown now: the message is about the directory all the same."""
    (tmp_path / "manifest.json").write_text('{"format": 1, "stages": {}}')
    (tmp_path / "config.toml").write_text("[stage]\nvisits = 3\n")
    for command in ("run", "next", "status", "check"):
        refused(learnalign(command, tmp_path), "was made before learnalign 0.1.0", "name a new run directory")
