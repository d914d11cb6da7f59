"""Compiles every Triton kernel for three GPU generations; needs no GPU. Prints kernel:architecture for each.

Run by test_fold_kernels.py in a process without TRITON_INTERPRET. Fails where a kernel asks for more shared
memory than a block of that generation may have.
"""

from __future__ import annotations

import torch
import triton
from learnalign.kernels import fold_triton, logprob_triton, score_triton
from learnalign.kernels.signs import BUCKET_STREAM, SIGN_STREAM, TILE
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
POINTERS = {"targets": "*i64", "offsets": "*i64", "delta": "*bf16", "x": "*bf16", "hidden": "*bf16", "weight": "*bf16"}
WIDE_POINTERS = [
    "partial", "phi", "log_probabilities", "products", "coefficients", "top_parts", "total_parts", "target_logits",
    "kl_weights", "kl_reference", "norms", "values", "dots", "vector",
]  # fmt: skip
BFLOAT16 = torch.bfloat16
CONSTANTS = {
    "fold_tiles": {
        "DIMENSION": 8192,
        "TILE": TILE,
        "GROUPED_ROWS": fold_triton.GROUPED_ROWS,
        "SIGN_STREAM": SIGN_STREAM,
        "BUCKET_STREAM": BUCKET_STREAM,
        "WIDEN": False,
        **fold_triton.SETTINGS[BFLOAT16],
    },
    "add_partials": {"DIMENSION": 8192, "BLOCK": fold_triton.SUM_BLOCK, "DEPTH": fold_triton.SUM_DEPTH},
    "delta_rows": {"CAPPED": True, "PULLED": True, "BLOCK": logprob_triton.ROW_BLOCK, "num_warps": 8},
    "sum_unit_rows": {"WIDTH": 8192, "BLOCK": score_triton.BLOCK_NUMBERS // 8192, "num_warps": 8},
    "dot_rows": {"WIDTH": 8192, "BLOCK": score_triton.BLOCK_NUMBERS // 8192, "num_warps": 8},
    "logsumexp_tiles": {"CAPPED": True, "WIDEN": False, **logprob_triton.TILES[BFLOAT16]},
}


def kind(name: str, kernel: str) -> str:
    """The type of a kernel's argument, by its name; `rows` are a number to the fold and int8 sketches to the scorer."""
    if name == "rows" and kernel in ("sum_unit_rows", "dot_rows"):
        return "*i8"
    if name in WIDE_POINTERS:
        return "*fp32"
    if name in ("inner", "outer"):
        return "fp32"
    return POINTERS.get(name, "i32")


def compile_kernel(kernel: triton.JITFunction, capability: int) -> None:
    """As a launch on such a GPU would, with pointers and sizes that are multiples of 16."""
    constants = dict(CONSTANTS[kernel.__name__])
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kind(name, kernel.__name__) for name in names}
    unspecialized = ("first_row", "layer", "seed_low", "seed_high", "inner", "outer", "programs", "tokens", "count")
    aligned = [k for k, name in enumerate(names) if name not in constants and name not in unspecialized]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(key),): value for key, value in constants.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    shared = compiled.metadata.shared
    if shared > SHARED_BYTES[capability]:
        raise SystemExit(f"{kernel.__name__} takes {shared} bytes of shared memory on sm_{capability}")


def main() -> None:
    """All of them."""
    for kernel in (
        fold_triton.fold_tiles,
        fold_triton.add_partials,
        logprob_triton.delta_rows,
        logprob_triton.logsumexp_tiles,
        score_triton.sum_unit_rows,
        score_triton.dot_rows,
    ):
        for capability in SHARED_BYTES:
            compile_kernel(kernel, capability)
            print(f"{kernel.__name__}:sm_{capability}", flush=True)


if __name__ == "__main__":
    main()
