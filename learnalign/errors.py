"""Every error that learnalign raises on purpose.

One root, one child per place where a user can be wrong. The command line prints the message as a single
line and exits with code 2, so a message says what was expected, what was found, where, and what to do.
This module does not decide how an error is shown: that is `cli`.
"""

from __future__ import annotations

from typing import Any


class LearnAlignError(Exception):
    """Root of all errors that a user can cause and repair."""


class ConfigError(LearnAlignError):
    """A setting is unknown, has the wrong type, or is out of range."""


class PoolError(LearnAlignError):
    """The pool file is missing, malformed, or lacks a column that is needed."""


class LogError(LearnAlignError):
    """A log of rollouts cannot be read, lacks a column that is needed, or does not fit the pool."""


class PolicyError(LearnAlignError):
    """The policy model or its tokenizer cannot be loaded or used."""


class EngineError(LearnAlignError):
    """A rollout engine is not installed, or its server does not answer or refuses."""


class RewardError(LearnAlignError):
    """A verifier is unknown or cannot be run."""


class MissingPackageError(LearnAlignError):
    """An optional package that the request needs is not installed; the message has the line that installs it."""

    def __init__(self, what: str, extra: str, cause: ImportError, otherwise: str = "") -> None:
        """what: needs the package, such as "rollout.engine=vllm". extra: of learnalign, that brings it. otherwise: what
        works without it.
        """
        missing = cause.name or str(cause)
        advice = f"pip install 'learnalign[{extra}]'" + (f"; {otherwise}" if otherwise else "")
        super().__init__(f"{what} needs a package that cannot be imported ({missing}): {advice}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied between processes by its message, which stands for what `__init__` takes."""
        return MissingPackageError.__new__, (MissingPackageError, *self.args)


class ArrayError(LearnAlignError, ValueError):
    """An array has the wrong shape, dtype, or values (NaN, a zero row, a rate outside [0, 1])."""


class StoreError(LearnAlignError):
    """A sketch store cannot be read or written."""


class StoreMismatchError(StoreError):
    """A sketch store was made with another seed, dimension, policy or format than the one asked for."""


class StoreCorruptError(StoreError):
    """Bytes of a sketch store do not match their checksum."""


class RunError(LearnAlignError):
    """A run directory is foreign, unreadable, or in a state that does not fit the request."""


class RunLockedError(RunError):
    """Another process is working in the run directory."""


class CostlyProductsError(RunError):
    """Responses or sketches were made from other inputs than today's, and are not overwritten unasked."""
