"""How long does a greedy selection of 1 % take, what memory, how many neighbors does it find, and how good is it?

Pools of 10,000, 100,000 or 1,000,000 int8 rows at d = 4,096 on the disk: sketches of the policy and the problems that
ship with the package, resampled. A row mixes one real sketch with one of its 16 nearest, in a random proportion, and
adds Gaussian noise of half its length; its successes of 8 are drawn anew from the real prompt's success rate. So rows
have near and far neighbors, as prompts of one kind have.

Stages: scoring, `top`, neighbors (folding, search, exact similarities, measured recall), greedy picks. Memory is the
largest anonymous memory of the process above that before the call: mapped pages are not counted. With 10,000 rows the
objective is compared with exact greedy over every prompt of score > 0 and all their similarities, plain NumPy in
float64, and with apricot-select and submodlib-py where they are installed and finish.

With --searches SECONDS nothing is selected: the searches for 32 neighbors of the learnable rows (--candidates of them)
stand side by side instead, each with so much time planned: ours, and FAISS's IndexIVFFlat and IndexHNSWFlat of the same
folded rows. Seconds of the wall clock and of the processor, the largest memory, recall of a sample; what is approximate
is ranked again from the stored rows everywhere. A million rows: --rows 1000000 --candidates 200000 --searches 120.

    python -m bench.select [--rows 10000] [--folder FOLDER] [--only-make]
    python -m bench.select [--rows 100000] --searches 30 [--candidates 20000] [--only lists int8 ivfflat]

The rows are made first, unless they lie in the folder already. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.measure import Peak, finish
from bench.searches import SEARCHES, compare_searches
from learnalign.config import Config, PolicyConfig, PoolConfig, RewardConfig, RolloutConfig, SelectConfig, SketchConfig
from learnalign.demo.pool import write_pool
from learnalign.demo.run import POLICY
from learnalign.runs import pipeline
from learnalign.scoring import score_shards
from learnalign.scoring.rows import Rows
from learnalign.selection import Constraints, Prompts, Search, pick
from learnalign.store import SketchReader

DIMENSION = 4096
MIXED_WITH = 16
NOISE = 0.5
CHUNK = 4096
Doubles = npt.NDArray[np.float64]


def main() -> None:
    """Make the pool, select from it, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", help="where the rows are and stay (default: a temporary folder)")
    parser.add_argument("--only-make", action="store_true", help="make the rows and stop")
    parser.add_argument(
        "--searches", type=float, help="compare searches for neighbors, so many seconds planned for each"
    )
    parser.add_argument("--candidates", type=int, default=20_000, help="rows searched in this comparison")
    parser.add_argument("--only", nargs="+", default=list(SEARCHES), choices=SEARCHES, help="these searches alone")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.folder or temporary)
        folder.mkdir(exist_ok=True)
        made = folder / f"rows-{asked.rows}.npy"
        if not made.exists():
            make(made, asked.rows)
        if asked.searches:
            rates = np.load(made.with_suffix(".p.npy"))
            compare_searches(np.load(made, mmap_mode="r"), rates, asked.candidates, asked.searches, asked.only)
        elif not asked.only_make:
            measure(np.load(made, mmap_mode="r"), np.load(made.with_suffix(".p.npy")))


def real_sketches(folder: Path) -> tuple[npt.NDArray[np.float32], Doubles]:
    """Unit sketches [m, d] and success rates of the learnable problems among 1,200."""
    config = Config(
        pool=PoolConfig(path=str(write_pool(folder / "pool.jsonl", 1200))),
        policy=PolicyConfig(model=str(POLICY)),
        rollout=RolloutConfig(max_new_tokens=16),
        reward=RewardConfig(verifier="exact"),
        sketch=SketchConfig(dimension=DIMENSION, dtype="float32"),
        select=SelectConfig(n=1),
    )
    pipeline.run(config, folder / "run")
    reader = SketchReader(folder / "run" / "sketches")
    return np.concatenate([block for _, block in reader.blocks()]), reader.success_rate


def make(path: Path, rows: int) -> None:
    """The resampled pool as int8 rows, and beside it the success rates."""
    with tempfile.TemporaryDirectory() as folder:
        units, rates = real_sketches(Path(folder))
    rng = np.random.default_rng(0)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2.0)
    near = np.argsort(-cosines, axis=1)[:, :MIXED_WITH]
    unfinished = path.with_suffix(".unfinished")
    out = np.lib.format.open_memmap(unfinished, "w+", np.int8, (rows, DIMENSION))
    success = np.empty(rows)
    for start in range(0, rows, CHUNK):
        size = min(CHUNK, rows - start)
        one = rng.integers(0, len(units), size)
        other = near[one, rng.integers(0, MIXED_WITH, size)]
        share = rng.random(size, dtype=np.float32)[:, None]
        mixed = share * units[one] + (1 - share) * units[other]
        mixed /= np.linalg.norm(mixed, axis=1)[:, None]
        mixed += NOISE / np.sqrt(DIMENSION) * rng.standard_normal((size, DIMENSION), dtype=np.float32)
        out[start : start + size] = np.rint(mixed * (127 / np.abs(mixed).max(axis=1))[:, None])
        success[start : start + size] = rng.binomial(8, rates[one]) / 8
    out.flush()
    np.save(path.with_suffix(".p.npy"), success)
    unfinished.rename(path)


def measure(rows: npt.NDArray[np.int8], success_rate: Doubles) -> None:
    """Every stage once, then the comparison where the size allows it."""
    count = len(rows)
    n, learnability = count // 100, success_rate * (1 - success_rate)
    seconds: dict[str, float] = {}
    rows[:, 0].max()  # touches every page: the page cache is warm, as after writing a store

    @contextmanager
    def watched(total: int) -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        yield lambda done: None
        seconds["neighbors"] = time.perf_counter() - start

    with Peak() as peak:
        start = time.perf_counter()
        scores = score_shards([rows], learnability, pool_size=count).score
        seconds["score"] = time.perf_counter() - start
        prompts = Prompts(
            scores,
            success_rate,
            learnability,
            Rows([rows]),
            np.arange(count),
            score_of=lambda values: score_shards([rows], values, pool_size=count).score,
            search=Search(track=watched),
        )
        start = time.perf_counter()
        best = pick(prompts, n, "top", Constraints()).indices
        seconds["top"] = time.perf_counter() - start
        start = time.perf_counter()
        picks = pick(prompts, n, "greedy", Constraints())
        seconds["greedy"] = time.perf_counter() - start
    picking = seconds["greedy"] - seconds["neighbors"]
    total = seconds["score"] + seconds["greedy"]
    print(f"{count:,} x {DIMENSION:,} int8, {rows.nbytes / 1e9:.2f} GB; {n:,} picks; {picks.facts}")
    for name, value in {**seconds, "greedy without neighbors": picking, "score + greedy": total}.items():
        print(f"  {name:<28}{value:>10.2f} s")
    print(f"  memory beyond the mapping   {peak.grown / 1e9:>10.2f} GB", flush=True)
    compared = compare(prompts, n, picks.indices, best) if count <= 10_000 else {}
    result = {
        "rows": count,
        "picks": n,
        **{f"{name}_seconds": round(value, 2) for name, value in seconds.items()},
        "total_seconds": round(total, 1),
        "memory_gb": round(peak.grown / 1e9, 2),
        "recall": picks.facts["neighbors"]["recall"],
        "search": picks.facts["neighbors"]["method"],
        **compared,
    }
    finish("select", result, "numpy", "faiss-cpu", "apricot-select", "submodlib-py")


def compare(
    prompts: Prompts, n: int, ours: npt.NDArray[np.int64], best: npt.NDArray[np.int64]
) -> dict[str, float | str]:
    """F over every prompt of score > 0, as a share of what exact greedy reaches on all their similarities."""
    positive = np.flatnonzero(prompts.score > 0)
    z = prompts.rows.unit(positive) * prompts.learnability[positive, None].astype(np.float32)
    similar = np.maximum(z @ z.T, 0.0)
    place = {row: k for k, row in enumerate(positive.tolist())}

    def objective(picked: list[int]) -> float:
        return float(similar[:, picked].max(axis=1).sum(dtype=np.float64))

    start = time.perf_counter()
    exact = objective(plain_greedy(similar, n))
    shares: dict[str, float | str] = {"exact_greedy_seconds": round(time.perf_counter() - start, 1)}
    shares["greedy_over_exact"] = round(objective([place[row] for row in ours.tolist()]) / exact, 4)
    shares["top_over_exact"] = round(objective([place[row] for row in best.tolist()]) / exact, 4)
    drawn = np.random.default_rng(0).choice(len(positive), n, replace=False).tolist()
    shares["aligned_over_exact"] = round(objective(drawn) / exact, 4)
    for name, run in (("apricot", apricot_picks), ("submodlib", submodlib_picks)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: skipped")
            continue
        start = time.perf_counter()
        picked = run(similar, n)
        shares[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
        shares[f"{name}_over_exact"] = round(objective(picked) / exact, 4)
    for name, share in shares.items():
        print(f"  {name:<28}{share}")
    return shares


def plain_greedy(similar: npt.NDArray[np.float32], n: int) -> list[int]:
    """Every gain for every pick."""
    covered, picked = np.zeros(len(similar), np.float32), list[int]()
    for _ in range(n):
        gains = np.zeros(len(similar))
        for start in range(0, len(similar), 512):
            part = slice(start, start + 512)
            gains += np.maximum(similar[part] - covered[part, None], 0.0).sum(axis=0, dtype=np.float64)
        gains[picked] = -1.0
        picked.append(int(gains.argmax()))
        covered = np.maximum(covered, similar[:, picked[-1]])
    return picked


def apricot_picks(similar: npt.NDArray[np.float32], n: int) -> list[int]:
    """apricot's lazy greedy on the dense matrix, in float64."""
    chosen = import_module("apricot").FacilityLocationSelection(n, metric="precomputed", optimizer="lazy")
    ranking: list[int] = chosen.fit(similar.astype(np.float64)).ranking.tolist()
    return ranking


def submodlib_picks(similar: npt.NDArray[np.float32], n: int) -> list[int]:
    """submodlib's lazy greedy on the dense matrix."""
    made = import_module("submodlib").FacilityLocationFunction(
        n=len(similar), mode="dense", sijs=np.ascontiguousarray(similar), separate_rep=False
    )
    return [int(j) for j, _ in made.maximize(budget=n, optimizer="LazyGreedy", show_progress=False)]


if __name__ == "__main__":
    main()
