"""IEEE arithmetic for what NumPy computes here, whatever the process is set to; the C++ core sees to itself.

Under `torch.set_flush_denormal(True)`, and where a library was linked with fast math, the processor takes numbers below
the normal range for 0. This module does not reach into the threads of a BLAS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from learnalign import _core


@contextmanager
def ieee_floats() -> Iterator[None]:
    """The calling thread rounds to nearest and knows subnormal numbers; also a decorator, as `@ieee_floats()`."""
    before = _core.set_ieee_floats()
    try:
        yield
    finally:
        _core.restore_floats(before)
