"""Products of float32 numbers in float32, whatever the program around them has allowed.

`torch.backends.cuda.matmul` may let a GPU round the factors of a float32 product to 10 bits (TF32). The head's products
and those of projections must not depend on that; the kernels' own never do. A model's own forward is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SETTINGS = torch.backends.cuda.matmul


@contextmanager
def plain_float32() -> Iterator[None]:
    """No TF32 within; afterwards the setting is as it was, whether by torch's old names or by its new one."""
    allowed = getattr(SETTINGS, "fp32_precision", None) == "tf32" or _allowed_by_the_old_name()
    if not allowed:
        yield
        return
    old = _allowed_by_the_old_name()  # with the new name alone torch refuses to read the old one
    medium = old and _medium()
    if old:
        SETTINGS.allow_tf32 = False
    else:
        SETTINGS.fp32_precision = "ieee"
    try:
        yield
    finally:
        if medium:
            torch.set_float32_matmul_precision("medium")
        elif old:
            SETTINGS.allow_tf32 = True
        else:
            SETTINGS.fp32_precision = "tf32"


def _allowed_by_the_old_name() -> bool:
    try:
        return bool(SETTINGS.allow_tf32)
    except RuntimeError:
        return False


def _medium() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # products on a CPU were set apart
        return False
