"""What does the compiler make of every Triton kernel, for three GPU generations? Needs no GPU.

Registers and local memory (where registers do not suffice) of a thread, shared memory of a program, the matrix
instruction, and how many instructions a warp issues in the loop around it, before that loop (once a tile) and behind
it, from the disassembled code (`nvdisasm`, which Triton brings along). `spills` are the instructions that touch local
memory. Kernels without a matrix product have a longest loop in its place. The numbers are those of the compiler that
is installed; `BOUNDS` are what any may reach, and a kernel beyond them makes the exit code 1.

    python -m bench.kernels

The last line is one JSON object.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # Triton reads it when it is first imported
import torch
import triton
from learnalign.kernels import fold_triton, logprob_triton, score_triton
from learnalign.kernels.signs import BUCKET_STREAM, SIGN_STREAM, TILE
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.measure import finish

GENERATIONS = (80, 90, 100)
SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
"""Of a program, at most; the multiprocessor has 1 KiB more, and keeps as much of every program's for itself."""
KEPT_BYTES = 1024
REGISTERS, THREADS = 65536, 2048
"""Of a multiprocessor."""
DIMENSION = 8192
NARROW, WIDE = "*bf16", "*fp32"
KINDS = {
    "*i64": "targets offsets",
    NARROW: "delta x",
    WIDE: "partial phi log_probabilities products coefficients kl_weights kl_reference norms values dots vector",
    "fp32": "inner outer scale",
}
POINTERS = {name: kind for kind, names in KINDS.items() for name in names.split()}
"""Types of arguments, by name; all others are whole numbers."""
ANY_NUMBER = {"first_row", "layer", "seed_low", "seed_high", "splits", "programs", "tokens", "count"}
"""Whole numbers that need not be multiples of 16."""
MATRIX = re.compile(r"(HMMA|HGMMA|UTC\w*MMA)\b")
LOCAL = re.compile(r"(LDL|STL)\b")


@dataclass(frozen=True)
class Bounds:
    """What a kernel's compiled code may take."""

    matrix: str = ""
    """How its matrix instruction begins; empty where it has none."""
    loop: int = 0
    """Instructions, at most."""
    behind: int = 0
    spills: int = 0
    together: int = 1
    """Programs that a multiprocessor must hold at once."""


FOLD_BOUNDS = {
    (80, False): Bounds("HMMA", 330, 950),
    (90, False): Bounds("HGMMA", 185, 1050),
    (90, True): Bounds("HGMMA", 92, 1220, together=2),
    (100, False): Bounds("UTCHMMA", 200, 930),
    (100, True): Bounds("UTCHMMA", 112, 980, spills=30),
}
"""By generation and whether there are descriptors; the spills are Triton 3.6's at d = 16,384."""


@dataclass(frozen=True)
class Build:
    """One kernel as it is launched on one GPU."""

    name: str
    kernel: Any
    generation: int
    constants: Mapping[str, Any]
    bounds: Bounds
    pointers: Mapping[str, str] = field(default_factory=lambda: POINTERS)


@dataclass(frozen=True)
class Found:
    """What the compiler made of it."""

    kernel: str
    generation: int
    matrix: str
    registers: int
    local_bytes: int
    spills: int
    shared_bytes: int
    together: int
    """Programs that a multiprocessor holds at once."""
    before: int
    loop: int
    behind: int
    instructions: int


def main() -> int:
    """Print the table; 1 where a bound is passed."""
    print(f"Triton {triton.__version__}; {ptxas()}; sketches of {DIMENSION:,}, bfloat16 unless said otherwise")
    print(f"{'kernel':<36}{'sm':>4}  {'matrix instruction':<26}{'registers':>10}{'local B':>9}{'spills':>8}"
          f"{'shared B':>10}{'together':>10}{'before':>8}{'loop':>6}{'behind':>8}{'all':>7}")  # fmt: skip
    rows, passed = [], []
    for build in builds():
        found = compiled(build)
        rows.append(asdict(found))
        print(f"{found.kernel:<36}{found.generation:>4}  {found.matrix or '-':<26}{found.registers:>10}"
              f"{found.local_bytes:>9}{found.spills:>8}{found.shared_bytes:>10}{found.together:>10}{found.before:>8}{found.loop:>6}"
              f"{found.behind:>8}{found.instructions:>7}", flush=True)  # fmt: skip
        passed += [f"{found.kernel}, sm_{found.generation}: {word}" for word in beyond(found, build.bounds)]
    for line in passed:
        print(f"beyond its bound: {line}")
    summary = f"{len(passed)} of {len(rows)} kernels beyond their bounds"
    finish("kernels", {"kernels": rows, "beyond": passed, "summary": summary}, "triton")
    return int(bool(passed))


def builds() -> list[Build]:
    """Every kernel for every generation; the fold with tensor descriptors too, where there are some."""
    found = []
    for generation in GENERATIONS:
        for described in (False, True) if generation >= 90 else (False,):
            found.append(fold(generation, described))
            if described:
                found.append(fold(generation, described, 16384))
        found += others(generation)
    found.append(fold(90, False, dtype=torch.float32))  # no matrix instruction: the same on every generation
    return found


def fold(generation: int, described: bool, dimension: int = DIMENSION, dtype: torch.dtype = torch.bfloat16) -> Build:
    """`fold_tiles` with the settings of its launch."""
    name = "fold_tiles" + ", descriptors" * described + (f", d = {dimension:,}" if dimension != DIMENSION else "")
    narrow = dtype == torch.bfloat16
    constants = {
        "DIMENSION": dimension,
        "TILE": TILE,
        "GROUPED_ROWS": fold_triton.GROUPED_ROWS,
        "SPLIT_TOKENS": fold_triton.SPLIT_TOKENS,
        "SIGN_STREAM": SIGN_STREAM,
        "BUCKET_STREAM": BUCKET_STREAM,
        "DESCRIBED": described,
        "WIDEN": False,
        **fold_triton.settings(dtype, dimension, described, generation // 10),
    }
    bounds = FOLD_BOUNDS[generation, described] if narrow else Bounds(loop=4600, behind=30)
    if constants["num_warps"] != fold_triton.HOPPER_WARPS:
        bounds = replace(bounds, together=1)
    pointers = POINTERS if narrow else {**POINTERS, "delta": WIDE, "x": WIDE}
    return Build(
        name if narrow else f"{name}, float32", fold_triton.fold_tiles, generation, constants, bounds, pointers
    )


def others(generation: int) -> list[Build]:
    """The kernels of the sums, the head and the scores."""
    score = {"WIDTH": DIMENSION, "BLOCK": score_triton.BLOCK_NUMBERS // DIMENSION, "num_warps": 8}
    integers = {**POINTERS, "rows": "*i8"}  # int8 sketches; to the fold a number
    sums = {"DIMENSION": DIMENSION, "BLOCK": fold_triton.SUM_BLOCK, "DEPTH": fold_triton.SUM_DEPTH}
    head = {"BLOCK": logprob_triton.ROW_BLOCK, "num_warps": 8}
    plain, capped = ({"CAPPED": with_cap, **head} for with_cap in (False, True))

    def build(kernel: Any, constants: Mapping[str, Any], bounds: Bounds, note: str = "") -> Build:
        pointers = integers if constants is score else POINTERS
        return Build(kernel.__name__ + note, kernel, generation, constants, bounds, pointers)

    return [
        build(fold_triton.add_partials, sums, Bounds(loop=150, behind=70, together=8)),
        build(logprob_triton.log_probability_rows, plain, Bounds(loop=260, behind=260, together=3)),
        build(logprob_triton.delta_rows, {"PULLED": False, **plain}, Bounds(loop=290, behind=30, together=3)),
        build(
            logprob_triton.delta_rows, {"PULLED": True, **capped}, Bounds(loop=610, behind=30, together=3), ", capped"
        ),
        build(score_triton.sum_unit_rows, score, Bounds(loop=490, behind=120)),
        build(score_triton.dot_rows, score, Bounds(loop=345, behind=30, together=3)),
    ]


def compiled(build: Build) -> Found:
    """As a launch on such a GPU would compile it, with pointers and sizes that are multiples of 16."""
    constants = dict(build.constants)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    names = build.kernel.arg_names
    kinds = {name: "constexpr" if name in constants else build.pointers.get(name, "i32") for name in names}
    aligned = [k for k, name in enumerate(names) if kinds[name] not in ("constexpr", "fp32") and name not in ANY_NUMBER]
    source = ASTSource(
        fn=build.kernel,
        signature=kinds,
        constexprs={(names.index(key),): value for key, value in constants.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k in aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", build.generation, 32), options=options)
    usage, code = disassembled(made.asm["cubin"])
    before, loop, behind = around_the_product(code)
    registers, shared, warps = int(usage["REG"]), made.metadata.shared, made.metadata.num_warps
    return Found(
        build.name,
        build.generation,
        next((match[0] for word in code.instructions if (match := re.match(rf"{MATRIX.pattern}\S*", word))), ""),
        registers,
        int(usage["STACK"]),
        sum(bool(LOCAL.match(word)) for word in code.instructions),
        shared,
        together(registers, shared, warps, build.generation),
        before,
        loop,
        behind,
        len(code.instructions),
    )


@dataclass(frozen=True)
class Code:
    """Instructions without their predicates, and loops as the places of their first and behind their last one."""

    instructions: list[str]
    loops: list[tuple[int, int]]


def disassembled(cubin: bytes) -> tuple[dict[str, str], Code]:
    """Resources by the names of `cuobjdump`, and the code."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = output(knobs.nvidia.cuobjdump.path, "-res-usage", str(file))
        text = output(knobs.nvidia.nvdisasm.path, "-c", str(file))
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        if label := re.match(r"(\.L_\S+):", line):
            labels[label[1]] = len(instructions)
        elif word := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            instructions.append(word[1])
            target = re.match(r"BRA.*`\((\.L_\S+?)\)", word[1])
            if target and target[1] in labels:
                loops.append((labels[target[1]], len(instructions)))
    loops = [loop for loop in loops if loop[1] - loop[0] > 1]  # the last one jumps to itself
    return dict(re.findall(r"(\w+):(\d+)", usage)), Code(instructions, loops)


def output(*command: str) -> str:
    """What a tool prints."""
    printed: str = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return printed


def around_the_product(code: Code) -> tuple[int, int, int]:
    """Instructions before, in and behind the loop of matrix instructions, within the loop around it.

    Without matrix instructions: before, in and behind the longest loop of all.
    """
    whole = (0, len(code.instructions))
    first = next((k for k, word in enumerate(code.instructions) if MATRIX.match(word)), None)
    if first is None:
        inner = max(code.loops, key=lambda loop: loop[1] - loop[0], default=whole)
        return inner[0], inner[1] - inner[0], whole[1] - inner[1]
    held = [loop for loop in code.loops if any(map(MATRIX.match, code.instructions[slice(*loop)]))]
    inner = min(held, key=lambda loop: loop[1] - loop[0], default=whole)
    around = [loop for loop in held if loop[0] < inner[0] and inner[1] < loop[1]]
    outer = min(around, key=lambda loop: loop[1] - loop[0], default=whole)
    return inner[0] - outer[0], inner[1] - inner[0], outer[1] - inner[1]


def together(registers: int, shared: int, warps: int, generation: int) -> int:
    """Programs that a multiprocessor holds at once, by registers, threads and shared memory."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    by_memory = (SHARED_BYTES[generation] + KEPT_BYTES) // (shared + KEPT_BYTES)
    return min(by_registers, by_memory, THREADS // (32 * warps))


def beyond(found: Found, bounds: Bounds) -> list[str]:
    """What passes its bound, in words."""
    words = []
    if bounds.matrix and not found.matrix.startswith(bounds.matrix):
        words.append(f"{found.matrix or 'no matrix instruction'} in place of {bounds.matrix}")
    for name in ("loop", "behind", "spills"):
        value, bound = getattr(found, name), getattr(bounds, name)
        if value > bound:
            words.append(f"{name} {value}, at most {bound}")
    if found.together < bounds.together:
        words.append(f"{found.together} programs together, at least {bounds.together}")
    if found.shared_bytes > SHARED_BYTES[found.generation]:
        words.append(f"shared memory {found.shared_bytes}, at most {SHARED_BYTES[found.generation]}")
    return words


def ptxas() -> str:
    """Version of the assembler."""
    version: str = re.findall(r"V([\d.]+)", output(knobs.nvidia.ptxas.path, "--version"))[0]
    return f"ptxas {version}"


if __name__ == "__main__":
    raise SystemExit(main())
