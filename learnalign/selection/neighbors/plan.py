"""How neighbors are searched: the most faithful way that fits into the time and the memory.

    exact   every pair of float32 rows at the full dimension (FAISS, CPU)
    int8    every pair of rows as bytes at the full dimension (torch, CPU or GPU): exact where they are stored as int8
    flat    every pair, folded to 1,024 numbers a row (FAISS, CPU), or as float16 (FAISS or torch, GPU)
    lists   a row looks into the lists nearest to it, folded (torch and FAISS's k-means, CPU)
    ivf     the same by FAISS's index on a GPU
    cagra   a graph, by FAISS with cuVS on a GPU

Times are estimates from constants, since measured speeds would make the result depend on how busy the machine was;
those of GPUs were not measured. This module searches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from learnalign.errors import ArrayError
from learnalign.selection.neighbors.memory import room
from learnalign.selection.neighbors.vectors import WIDEST_BYTES

FOLDED = 1024
"""Numbers a row that an approximate search compares."""
CPU_RATE = {"exact": 1e11, "flat": 1e11, "lists": 1e11, "int8": 4e11}
"""Multiplications and additions a second: what two cores do at least, with AVX2, and for int8 with VNNI."""
GPU_RATE = {"flat": 2e14, "int8": 4e14, "ivf": 1e13, "cagra": 2e14}
"""The same for one GPU: a fifth of an H200's peak; inverted lists are scanned as fast as its memory is read, about."""
PAIR_RATE = {"cpu": 2e9, "cuda": 1e11}
"""Numbers a second of stored rows that are multiplied to rank again what a search found."""
CAGRA_ROWS = 4096
"""Rows that building and searching a graph compares each with, about."""
FEWEST_PROBES = 4
SPARE = 4
UNLIMITED = 1 << 62
ON_CPU = frozenset({"exact", "flat", "lists"})


@dataclass(frozen=True)
class Machine:
    """What a search may use."""

    device: str = "cpu"
    """`cpu`, or a GPU as torch names it: `cuda:0`."""
    room: int = UNLIMITED
    """Bytes of memory on that device."""
    methods: frozenset[str] = ON_CPU
    """What works there, as `probe` names it; on a CPU `int8` is among them where the processor multiplies bytes."""
    bytes_stored: bool = False
    """The rows are int8, so that products of bytes are exact."""
    trouble: str = ""
    """Why methods of a GPU are missing."""


@dataclass(frozen=True)
class Plan:
    """How neighbors are searched."""

    method: str
    """A key of the table above."""
    dimension: int
    """Numbers a row that are compared."""
    lists: int = 1
    probes: int = 1
    """Lists that a row looks into."""
    device: str = "cpu"
    library: str = "faiss"
    exact: bool = field(default=False, kw_only=True)
    """The order of what is compared is the order of the similarities: nothing spare is found and ranked again."""


def plan(
    rows: int, dimension: int, seconds: float, k: int = 0, machine: Machine | None = None, method: str = "auto"
) -> Plan:
    """The most faithful search of all rows among all rows, for k neighbors, within about `seconds` and the memory.

    What it finds is ranked again at the full dimension: k of each row, or 4 k where the search is approximate. That
    goes off the time first. Of equally faithful searches the one of the least estimated time is taken, and where none
    is within the time the one of the least time of all. A GPU that none fits into leaves the search to the CPU.

    Raises:
        ArrayError: a `method` that the machine cannot do.
    """
    machine = machine or Machine()
    kinds = faithful_first(rows, dimension, seconds, k, machine)
    if method != "auto":
        kinds = [[one for one in kind if one.method == method] for kind in kinds]
        if not any(kinds):
            trouble = f" ({machine.trouble})" if machine.trouble else ""
            raise ArrayError(f"select.neighbors={method} does not work on {machine.device}{trouble}: use auto")
    fitting = [[one for one in kind if memory(one, rows) <= machine.room] for kind in kinds]
    timely = [[one for one in kind if estimate(one, rows, dimension, k) <= seconds] for kind in fitting]
    best = next((kind for kind in timely if kind), [one for kind in fitting for one in kind])
    if best:
        return min(best, key=lambda one: estimate(one, rows, dimension, k))
    if machine.device != "cpu" and method == "auto":
        return plan(rows, dimension, seconds, k, Machine(room=room("cpu")))
    smallest = min((one for kind in kinds for one in kind), key=lambda one: memory(one, rows))
    if method == "auto":
        return smallest
    raise ArrayError(
        f"select.neighbors={method} takes {memory(smallest, rows) / 2**30:,.1f} GiB on {machine.device}, which has "
        f"{machine.room / 2**30:,.1f} GiB for it: use auto"
    )


def faithful_first(rows: int, dimension: int, seconds: float, k: int, machine: Machine) -> list[list[Plan]]:
    """What the machine can do, the most faithful kinds first."""
    folded = min(dimension, FOLDED)
    exact = Plan("exact", dimension, exact=True)
    lists = _lists(rows, dimension, seconds, k)
    whole_bytes = dimension <= WIDEST_BYTES
    in_bytes = Plan(
        "int8", dimension if whole_bytes else folded, library="torch", exact=machine.bytes_stored and whole_bytes
    )
    if machine.device == "cpu":
        kinds = [[exact], [Plan("flat", folded)], [lists]]
        kinds[0 if in_bytes.exact else 1].append(in_bytes)
    else:
        by = "faiss" if "flat" in machine.methods else "torch"
        flat = Plan("flat", dimension, library=by)
        kinds = [
            [in_bytes, flat],
            [replace(flat, dimension=folded), replace(in_bytes, dimension=folded, exact=False)],
            [replace(lists, method="ivf"), Plan("cagra", folded)],
        ]
        kinds = [[replace(one, device=machine.device) for one in kind] for kind in kinds]
    return [[one for one in kind if _works(one, machine)] for kind in kinds]


def _lists(rows: int, dimension: int, seconds: float, k: int) -> Plan:
    """As many lists probed as there is time for."""
    count = max(math.isqrt(rows), 1)
    none = Plan("lists", min(dimension, FOLDED), count, 0)
    left = max(seconds - estimate(none, rows, dimension, k), 0.0)
    one_more = estimate(replace(none, probes=1), rows, dimension, k) - estimate(none, rows, dimension, k)
    return replace(none, probes=min(max(int(min(left / one_more, count)), FEWEST_PROBES), count))


def estimate(one: Plan, rows: int, dimension: int, k: int) -> float:
    """Seconds that a search takes and ranking again what it found, at the constants above."""
    on_cpu = one.device == "cpu"
    compared = float(rows)
    if one.lists > 1 or one.method in ("lists", "ivf"):
        compared = rows * one.probes / one.lists + 2 * one.lists  # k-means, and every row's nearest lists
    elif one.method == "cagra":
        compared = min(rows, CAGRA_ROWS)
    search = 2.0 * rows * compared * one.dimension / (CPU_RATE if on_cpu else GPU_RATE)[one.method]
    ranked = rows * spare(one) * k * dimension / PAIR_RATE["cpu" if on_cpu else "cuda"]
    return search + ranked


def spare(one: Plan) -> int:
    """How many times the neighbors asked for are found: four times as many where the search is approximate.

    Folding loses more than lists do: of 200,000 rows of 4,096 that agree best with their pool, twice as many hold 0.90
    of the 32 nearest whether 25 or all of 447 lists are looked into, four times as many 0.99.
    """
    return 1 if one.exact else SPARE


def memory(one: Plan, rows: int) -> int:
    """Bytes that a search holds on its device."""
    width = {"int8": 1, "flat": 4 if one.device == "cpu" else 2}.get(one.method, 4)
    copies = 2 if one.method in ("lists", "cagra") else 1
    return copies * width * rows * one.dimension


def _works(one: Plan, machine: Machine) -> bool:
    if one.device == "cpu":
        return one.method in ON_CPU or one.method in machine.methods
    return ("tiles" if one.library == "torch" and one.method == "flat" else one.method) in machine.methods
