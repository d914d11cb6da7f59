"""A run directory: configuration, manifest, lock, and what each stage has made from what.

    config.toml      every setting, defaults spelled out
    manifest.json    versions, policy, and for each stage: state, inputs, outputs with digests, rows, seconds
    pool.parquet     prompts as the pipeline sees them
    target/          where a target set is given: a run directory of its own, up to its sketches
    warmup/          the policy after a warm-up, where one was asked for
    rollouts/*.parquet  rewards/*.parquet  sketches/  scores.parquet  selection.{parquet,jsonl}  report.html

A stage's inputs are a flat table of named values (settings, digests of the files it reads) that determine what it
makes; they are recorded before it starts. This module does not run stages.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from learnalign import files
from learnalign.config import Config, PolicyConfig, read_config, to_toml
from learnalign.errors import RunError, RunLockedError

FORMAT = 2
LAP_SECONDS = 5.0
REPORTED = (
    "python", "learnalign", "torch", "transformers", "numpy", "pyarrow", "math-verify", "faiss-cpu", "faiss-gpu", "ray",
)  # fmt: skip

Inputs = Mapping[str, str | int | float]


class RunDir:
    """An open run directory. Make one with `create_run` or `open_run`; work in it under `locked`."""

    def __init__(self, path: Path, config: Config, manifest: dict[str, Any]) -> None:
        self.path, self.config, self.manifest = path, config, manifest

    @property
    def target(self) -> Path:
        """The run directory in which the prompts of `select.target` are measured."""
        return self.path / "target"

    @property
    def policy(self) -> PolicyConfig:
        """The policy of the stages after the warm-up: its result, where there is a warm-up."""
        policy = self.config.policy
        return replace(policy, model=str(self.path.absolute() / "warmup")) if self.config.warmup.prompts else policy

    def rendering_time(self) -> datetime:
        """The time that chat templates are told: that of the first rendering, so that a resumed run has its prompts."""
        if "rendered" not in self.manifest:
            self.manifest["rendered"] = datetime.now().isoformat(timespec="seconds")
            files.write_json(self.path / "manifest.json", self.manifest)
        return datetime.fromisoformat(self.manifest["rendered"])

    def save_config(self, config: Config) -> None:
        """Make `config` the run's configuration."""
        self.config = config
        files.write_text(self.path / "config.toml", to_toml(config))

    def record(self, stage: str) -> dict[str, Any]:
        """What the manifest says of a stage; empty if it has not started or its outputs were deleted."""
        record: dict[str, Any] = self.manifest["stages"].get(stage, {})
        return record if all(_holds_something(self.path / name) for name in record.get("products", [])) else {}

    def begin(self, stage: str, inputs: Inputs, products: tuple[str, ...]) -> None:
        """Record that a stage starts or goes on, with what determines its result and what it makes."""
        before = {"seconds": 0.0, **self.record(stage)}
        before.pop("outputs", None)
        self._store(stage, {**before, "state": "running", "inputs": dict(inputs), "products": list(products)})

    def reopen(self, stage: str) -> None:
        """Let a stage that is done go on: some of what it made is gone."""
        if record := self.record(stage):
            self.begin(stage, record["inputs"], tuple(record["products"]))

    def lap(self, stage: str, seconds: float) -> None:
        """Keep the time that a running stage has taken, over all its attempts; written every few seconds only."""
        record = self.manifest["stages"][stage]
        if seconds - record["seconds"] >= LAP_SECONDS:
            self._store(stage, {**record, "seconds": round(seconds, 3)})

    def finish(self, stage: str, rows: int, seconds: float, notes: list[str], facts: dict[str, Any]) -> None:
        """Record the digests of what a stage made, and that it is done."""
        record = self.manifest["stages"][stage]
        outputs = {name: digest(self.path / name) for name in record["products"]}
        done = {"state": "done", "outputs": outputs, "rows": rows, "seconds": round(seconds, 3)}
        self._store(stage, {**record, **done, "notes": notes, **facts})

    def output(self, stage: str, product: str) -> str:
        """Digest of a product after its stage. Raises `RunError` if the stage is not that far."""
        record = self.record(stage)
        if record.get("state") != "done":
            raise RunError(f"{self.path}: stage {stage} is not done; run 'learnalign {stage} {self.path}' first")
        return str(record["outputs"][product])

    def _store(self, stage: str, record: dict[str, Any]) -> None:
        self.manifest["stages"][stage] = record
        self.manifest["versions"] = installed_versions()
        files.write_json(self.path / "manifest.json", self.manifest)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory against other processes. Raises `RunLockedError` naming the holder."""
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunLockedError(f"{self.path} is in use by process {holder}: wait for it, or stop it") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def create_run(path: str | Path, config: Config) -> RunDir:
    """Make a new run directory with `config`, or open the one that is there with the configuration it holds."""
    path = Path(path)
    if (path / "manifest.json").exists():
        return open_run(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not a run directory (no manifest.json): name a new directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the run directory {path}: {error.strerror}") from error
    run = RunDir(path, config, {"format": FORMAT, "stages": {}, "versions": installed_versions()})
    run.save_config(config)
    files.write_json(path / "manifest.json", run.manifest)
    return run


def open_run(path: str | Path) -> RunDir:
    """Open a run directory with the configuration it holds. Raises `RunError` for anything else."""
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise RunError(f"{path} is not a run directory (no manifest.json)")
    manifest = _read_manifest(path)
    return RunDir(path, read_config(path / "config.toml"), manifest)


def differences(old: Inputs, new: Inputs) -> list[str]:
    """Every input that changed, as `name: old -> new`."""
    return [
        f"{name}: {_short(old.get(name, 'none'))} -> {_short(new.get(name, 'none'))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and files. Sketch shards count through their checksummed index."""
    if path.is_file():
        return files.sha256_file(path)
    total = hashlib.sha256()  # not of a shard's sum, which follows from its rows and may be made again
    for file in sorted(p for p in path.iterdir() if p.is_file() and p.suffix not in (".npy", ".sum")):
        total.update(f"{file.name}\0{files.sha256_file(file)}\n".encode())
    return total.hexdigest()


def installed_versions(names: Sequence[str] = REPORTED) -> dict[str, str]:
    """Versions of packages, by default of all that a result depends on; `python` is Python's own."""
    return {name: platform.python_version() if name == "python" else _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = manifest["format"]
        manifest["stages"].items()
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{file} is not a manifest of learnalign: name another directory") from None
    if found == 1:
        raise RunError(
            f"{path} was made before learnalign 0.1.0, whose names of settings and states are others: "
            "name a new run directory, or go on with the version that made it"
        )
    if found != FORMAT:
        raise RunError(f"{file} has format {found}, this version of learnalign reads format {FORMAT}")
    return manifest


def _holds_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
