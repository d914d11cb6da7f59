"""learnalign picks the training prompts that are worth a GPU hour.

For reinforcement learning with verifiable rewards: samples the policy, measures each prompt's success rate p and
the direction of its policy gradient, and returns the prompts that are learnable, p (1 - p), and representative
(LearnAlign, Li et al., Findings of ACL 2026, arXiv 2506.11480).

    score(phi, success_rate)       scores of prompts from their sketched gradients
    select(phi, success_rate, n)   the n prompts to train on
    run(config, directory)         the whole pipeline over a pool file and a policy
    Sketcher, Group                sketches of policy gradients from your own rollouts
    SketchWriter, SketchReader     the durable store of sketches

Importing this package loads neither torch nor transformers; names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnalign.config import Config, SketchConfig, read_config
    from learnalign.errors import LearnAlignError
    from learnalign.gradient import Group, Sketcher
    from learnalign.runs.pipeline import RunResult, run
    from learnalign.scoring import score
    from learnalign.selection import Selection, select
    from learnalign.store import SketchReader, SketchWriter

_ORIGIN = {
    "Config": "config",
    "SketchConfig": "config",
    "read_config": "config",
    "LearnAlignError": "errors",
    "Group": "gradient",
    "Sketcher": "gradient",
    "RunResult": "runs.pipeline",
    "run": "runs.pipeline",
    "score": "scoring",
    "Selection": "selection",
    "select": "selection",
    "SketchReader": "store",
    "SketchWriter": "store",
}

__all__ = [
    "Config",
    "Group",
    "LearnAlignError",
    "RunResult",
    "Selection",
    "SketchConfig",
    "SketchReader",
    "SketchWriter",
    "Sketcher",
    "read_config",
    "run",
    "score",
    "select",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("learnalign")
    if name not in _ORIGIN:
        raise AttributeError(f"module 'learnalign' has no attribute {name!r}")
    value = getattr(import_module(f"learnalign.{_ORIGIN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
