"""What does a cluster cost, and where does it end?

Four questions, on this machine:

1. The same units of sketching and of sampling, by this process and by Ray workers with one thread each: rows a second
   (prompts of sketching, responses of sampling). Of this process and of one worker in turns, the best turn counts: one
   worker may cost at most 5 % (`BAR`). Results are asserted to be equal to the bit. Two workers come after them.
2. The driver's ceiling: workers that only return d numbers a row, so that nothing but crossing processes and appending
   to the store takes time. Beside it, appending alone, cutting batches, and reading.
3. The driver's memory: a million prompts through `Workers.map`, small rows: what it grows by after the first tenth.
4. On paper, from these figures: with how many GPUs the driver is the limit (`RESULTS.md`).

A small random policy stands for a large one: what crosses is the same, and takes no longer when the gradient does.

    OMP_NUM_THREADS=1 python -m bench.cluster [--quick]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers

from bench.measure import finish
from learnalign.cluster import Needs, Unit, Workers, open_workers, session
from learnalign.config import ClusterConfig, Config, PolicyConfig, RolloutConfig, SketchConfig
from learnalign.demo.run import POLICY
from learnalign.gradient import Costs, Group, Sketched, cut
from learnalign.progress import Progress
from learnalign.rollout.engine import Task
from learnalign.runs.sampling import Sampling
from learnalign.runs.sketching import Sketching, costs_of_workers, shared_rows
from learnalign.store import SketchWriter

BAR = 0.05
DIMENSION = 8192
ROWS = 64
"""Of a unit that crosses without work."""
RESPONSES, PROMPT_TOKENS, RESPONSE_TOKENS = 8, 64, 96


def main() -> None:
    """Ask the four questions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes that show that it runs")
    parser.add_argument("--repeats", type=int, default=7, help="turns of this process and of one worker")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    repeats, units = (2, 2) if asked.quick else (asked.repeats, 4)
    with tempfile.TemporaryDirectory() as folder, session():
        config = policy_of(Path(folder), small=asked.quick)
        result = {
            "sketching": compare(sketching(config), repeats, lambda workers: sketch_units(workers, units)),
            "sampling": compare(sampling(config), repeats, lambda _: sample_units(units)),
            "ceiling": {**cutting(), **ceiling(Path(folder), 4_096 if asked.quick else 65_536)},
            "memory": memory(50_000 if asked.quick else 1_000_000),
        }
    for name in ("sketching", "sampling"):
        print(f"{name}: one Ray worker costs {result[name]['overhead']:+.1%} (bar {BAR:.0%})")
    finish("cluster", {**result, "bar": BAR}, "ray", "torch", "transformers")


def policy_of(folder: Path, small: bool) -> Config:
    """A random policy of some million weights with the demo's tokenizer, and the settings to run it."""
    settings = transformers.AutoConfig.from_pretrained(POLICY)
    wide, layers = (64, 2) if small else (256, 4)
    shape = {"hidden_size": wide, "intermediate_size": 3 * wide, "num_hidden_layers": layers, "head_dim": wide // 8}
    settings.update({**shape, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024})
    settings.update({"layer_types": None} if hasattr(settings, "layer_types") else {})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(settings)
    model.save_pretrained(folder / "policy")
    transformers.AutoTokenizer.from_pretrained(POLICY).save_pretrained(folder / "policy")
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"policy: {weights / 1e6:.1f} million random weights", flush=True)
    return Config(
        policy=PolicyConfig(model=str(folder / "policy"), device="cpu"),
        rollout=RolloutConfig(max_new_tokens=64, responses=RESPONSES),
        sketch=SketchConfig(dimension=DIMENSION),
    )


def sketching(config: Config) -> Sketching:
    """The work of the sketch stage."""
    return Sketching.of(config, config.policy)


def sampling(config: Config) -> Sampling:
    """The work of the rollout stage."""
    return Sampling(config, PROMPT_TOKENS, torch.get_num_threads())


def sketch_units(workers: Workers, count: int) -> list[Unit]:
    """Batches of two prompts."""
    draw, costs = np.random.default_rng(0), costs_of_workers(workers.ask)
    units = []
    for k in range(count):
        groups = [
            Group(
                draw.integers(3, 20, PROMPT_TOKENS).tolist(),
                draw.integers(3, 20, (RESPONSES, RESPONSE_TOKENS)).tolist(),
                [float(r % 2) for r in range(RESPONSES)],
            )
            for _ in range(2)
        ]
        units.append(Unit([f"{k}-{i}" for i in range(2)], (groups, shared_rows(costs, groups)), 2))
    return units


def sample_units(count: int) -> list[Unit]:
    """Parts of eight prompts."""
    draw = np.random.default_rng(1)
    return [
        Unit(
            [str(k)],
            ([Task(f"{k}-{i}", draw.integers(3, 20, PROMPT_TOKENS).tolist(), RESPONSES) for i in range(8)],),
            8 * RESPONSES,
        )
        for k in range(count)
    ]


def compare(work: Any, repeats: int, units_for: Callable[[Workers], list[Unit]]) -> dict[str, Any]:
    """Rows a second of this process, one worker and two, and what one worker costs."""
    quiet, rates = Progress(quiet=True), dict[str, float]()
    with ExitStack() as stack:
        here = stack.enter_context(open_workers(ClusterConfig(), work, "here", quiet))
        one = stack.enter_context(open_workers(ClusterConfig(address="local", workers=1), work, "one", quiet))
        units = units_for(here)
        results = {"no Ray": run(here, units), "one worker": run(one, units)}  # both are warm after it
        assert all(same(*pair) for pair in zip(*(found for _, found in results.values()), strict=True))
        seconds = dict.fromkeys(results, float("inf"))
        for turn in range(repeats):
            for name, workers in (("no Ray", here), ("one worker", one))[:: 1 if turn % 2 else -1]:
                seconds[name] = min(seconds[name], run(workers, units)[0])
    with open_workers(ClusterConfig(address="local", workers=2), work, "two", quiet) as two:
        run(two, units * 2)
        seconds["two workers"] = min(run(two, units)[0] for _ in range(repeats))
    rows = sum(unit.kept for unit in units)
    for name, value in seconds.items():
        rates[name] = rows / value
        print(f"  {type(work).__name__:<10}{name:<12}{rates[name]:>9.2f} rows/s", flush=True)
    return {"rows_per_second": rates, "overhead": seconds["one worker"] / seconds["no Ray"] - 1.0}


def run(workers: Workers, units: Sequence[Unit]) -> tuple[float, list[Any]]:
    """Seconds and results."""
    started = time.perf_counter()
    found = [result for _, result in workers.map(iter(units))]
    return time.perf_counter() - started, found


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same bits."""
    return np.array_equal(one.phi, other.phi) if isinstance(one, Sketched) else bool(one.equals(other))


@dataclass(frozen=True)
class Returning:
    """Work that takes no time: rows of `dimension` numbers."""

    dimension: int

    @property
    def needs(self) -> Needs:
        """A processor."""
        return Needs()

    def identity(self) -> dict[str, str]:
        """Nothing to compare."""
        return {}

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[Returned]:
        """Nothing to load."""
        yield Returned(self.dimension)


class Returned:
    """`Returning`, opened."""

    device = "none"
    about: dict[str, Any] = {}  # noqa: RUF012 (the protocol's name)

    def __init__(self, dimension: int) -> None:
        self.rows = np.random.default_rng(0).standard_normal((ROWS, dimension), np.float32)

    def __call__(self, groups: Any) -> np.ndarray:
        """A unit's rows."""
        return self.rows


def synthetic(rows: int, tokens: int) -> Iterator[Unit]:
    """Units whose payload is as large as that of groups of 8 responses with so many tokens."""
    payload = list(range(tokens))
    for first in range(0, rows, ROWS):
        yield Unit([f"prompt-{first + k:08d}" for k in range(ROWS)], ([payload] * ROWS,), np.full(ROWS, 0.5))


def cutting(rows: int = 512) -> dict[str, float]:
    """Rows a second of processor time in which the driver cuts batches, and makes lists of stored tokens."""
    draw = np.random.default_rng(2)
    groups = [
        Group(
            [1] * PROMPT_TOKENS,
            [[1] * int(n) for n in draw.integers(64, 512, RESPONSES)],
            [0.0, 1.0] * (RESPONSES // 2),
        )
        for _ in range(rows)
    ]
    settings, costs = SketchConfig(), Costs(share=True, token=1e9, pair=1e5)
    stored = pa.array([response for group in groups for response in group.responses])
    started = time.process_time()
    cut(groups, settings.batch_tokens, settings, costs)
    between = time.process_time()
    stored.to_pylist()
    rates = {"cutting": rows / (between - started), "reading": rows / (time.process_time() - between)}
    print(f"  ceiling     cutting {rates['cutting']:,.0f}, reading {rates['reading']:,.0f} rows/s", flush=True)
    return rates


def ceiling(folder: Path, rows: int) -> dict[str, float]:
    """Rows a second that the driver can take and append, at d = 8,192, float16."""
    phi = Returned(DIMENSION).rows
    with SketchWriter(folder / "alone", dimension=DIMENSION, identity={}) as writer:
        started = time.perf_counter()
        for unit in synthetic(rows, 0):
            writer.append(unit.prompt_ids, unit.kept, phi)
        writer.flush()
        alone = rows / (time.perf_counter() - started)
    settings = ClusterConfig(address="local", workers=2)
    with (
        open_workers(settings, Returning(DIMENSION), "ceiling", Progress(quiet=True)) as workers,
        SketchWriter(folder / "crossed", dimension=DIMENSION, identity={}) as writer,
    ):
        list(workers.map(synthetic(4 * ROWS, 10)))  # both workers are there
        started = time.perf_counter()
        for unit, found in workers.map(synthetic(rows, RESPONSES * RESPONSE_TOKENS)):
            writer.append(unit.prompt_ids, unit.kept, found)
        writer.flush()
        crossed = rows / (time.perf_counter() - started)
    print(f"  ceiling     appending alone {alone:,.0f} rows/s, from two workers {crossed:,.0f} rows/s", flush=True)
    return {"appending_alone": alone, "from_two_workers": crossed}


def memory(rows: int) -> dict[str, float]:
    """MiB by which the driver's peak grows between a tenth of the rows and all of them."""
    settings, seen, tenth = ClusterConfig(address="local", workers=2), 0, 0.0
    with open_workers(settings, Returning(128), "memory", Progress(quiet=True)) as workers:
        for unit, _ in workers.map(synthetic(rows, 100)):
            seen += len(unit.prompt_ids)
            if not tenth and seen >= rows / 10:
                tenth = peak()
    grown = peak() - tenth
    print(
        f"  memory      peak {peak():,.0f} MiB, {grown:+,.1f} MiB over the last nine tenths of {rows:,} prompts",
        flush=True,
    )
    return {"prompts": rows, "peak_mib": peak(), "grown_mib": grown}


def peak() -> float:
    """This process's largest resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
