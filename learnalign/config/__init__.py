"""Every setting of a run, as frozen dataclasses, with TOML in and out.

    values       what the value of a setting may be
    checks       bounds of a setting, and the table that checks its own
    sections     the settings: one table a stage
    whole        all of them together, and which do not fit each other
    lookup       settings by their names
    applying     settings given as a nested dictionary
    assignments  settings given as section.key=value
    toml         a file of settings, read and written

An unknown key, a wrong type or a value out of range is a `ConfigError` that names the key and where it was read. An
empty string means "found by itself" wherever a setting is optional, so that the file written into a run directory
spells out every default. This package does not read pools or models.
"""

from learnalign.config.applying import with_values
from learnalign.config.assignments import parse_assignment, parse_assignments
from learnalign.config.checks import Section, bounded
from learnalign.config.lookup import choices, get, section_dict
from learnalign.config.sections import (
    ClusterConfig,
    OnlineConfig,
    PolicyConfig,
    PoolConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    SketchConfig,
    WarmupConfig,
)
from learnalign.config.toml import read_config, to_toml
from learnalign.config.values import (
    FUNCTION,
    MOST_SEED,
    RENDERED,
    VERIFIERS,
    Allocation,
    Dtype,
    EngineName,
    NeighborSearch,
    Order,
    ResponsesUsed,
    Space,
    StoredDtype,
    StrategyName,
    Weighting,
)
from learnalign.config.whole import Config

__all__ = [
    "FUNCTION",
    "MOST_SEED",
    "RENDERED",
    "VERIFIERS",
    "Allocation",
    "ClusterConfig",
    "Config",
    "Dtype",
    "EngineName",
    "NeighborSearch",
    "OnlineConfig",
    "Order",
    "PolicyConfig",
    "PoolConfig",
    "ResponsesUsed",
    "RewardConfig",
    "RolloutConfig",
    "Section",
    "SelectConfig",
    "SketchConfig",
    "Space",
    "StoredDtype",
    "StrategyName",
    "WarmupConfig",
    "Weighting",
    "bounded",
    "choices",
    "get",
    "parse_assignment",
    "parse_assignments",
    "read_config",
    "section_dict",
    "to_toml",
    "with_values",
]
