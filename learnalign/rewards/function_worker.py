"""The worker process of `function`: loads the user's file and calls its function (`worker` says how it is spoken to).

`... FILE FUNCTION`. The message "signature" is answered with `verl` or `trl`; any other message holds the keyword
arguments of one call, and is answered with `{"rewards": [[reward, acc], ...]}` or `{"error": text}`. This module
does not know what is correct: see `function`.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learnalign.rewards.verdict import as_verdict
from learnalign.rewards.worker import Answer, CannotServe, serve

SIGNATURES = (
    "compute_score(data_source, solution_str, ground_truth, extra_info=None) as for verl, or "
    "reward(completions, prompts, **columns) as for TRL"
)


def prepare(arguments: list[str], memory_mb: int) -> Answer:
    """The function that answers messages. Raises `CannotServe` if the file or its function is unfit."""
    file, name = Path(arguments[0]), arguments[1]
    function = _load(file, name, memory_mb)
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set()
    signature = "trl" if "completions" in parameters else "verl" if "solution_str" in parameters else ""
    if not signature or inspect.iscoroutinefunction(function):
        raise CannotServe(f"{file}: {name} must be a plain function {SIGNATURES}")

    def answer(message: Any) -> object:
        if message == "signature":
            return signature
        try:
            result = function(**message)
            if signature == "verl":
                return {"rewards": [_scored(result)]}
            return {"rewards": [[_number(value), None] for value in _listed(result, len(message["completions"]))]}
        except (Exception, SystemExit) as error:
            return {"error": _shown(error, file)}

    return answer


def _load(file: Path, name: str, memory_mb: int) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"reward_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CannotServe(f"cannot load the reward {file} within {memory_mb} MiB: {_shown(error, file)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise CannotServe(f"{file} has no function {name}")
    return function  # type: ignore[no-any-return]


def _scored(result: Any) -> list[float | bool | None]:
    """verl's result as [reward, acc]."""
    if not isinstance(result, dict):
        return [_number(result), None]
    if "score" not in result:
        raise ValueError(f"the returned dict has no 'score', only {', '.join(map(repr, result)) or 'nothing'}")
    accurate = result.get("acc")
    return [_number(result["score"]), None if accurate is None else _accuracy(accurate)]


def _accuracy(value: Any) -> bool:
    try:
        return as_verdict(value)
    except ValueError as error:
        raise ValueError(
            f"the returned 'acc' {error}; leave it out to let reward.threshold decide by 'score'"
        ) from None


def _listed(result: Any, count: int) -> list[Any]:
    """TRL's result as a list with one entry a completion."""
    if not hasattr(result, "__iter__") or len(found := list(result)) != count:
        raise ValueError(f"it must return a list of {count} rewards, one a completion, and returned {result!r:.60}")
    return found


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"a reward must be a number, found {value!r:.60}") from None
    if not math.isfinite(number):
        raise ValueError(f"a reward must be finite, found {number}")
    return number


def _shown(error: BaseException, file: Path) -> str:
    """One line: the error, and the last line of the user's own file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    text = f"{type(error).__name__}: {error}".split("\n")[0]
    return f"{text} ({file.name}, line {lines[-1]})" if lines else text


if __name__ == "__main__":
    serve(prepare)
