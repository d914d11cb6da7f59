"""A configuration as a TOML file, read and written."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from learnalign.config.applying import with_values
from learnalign.config.whole import Config
from learnalign.errors import ConfigError


def read_config(path: str | Path) -> Config:
    """Read a TOML file; keys left out keep their defaults. Raises `ConfigError`."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return with_values(Config(), data, where=str(path))


def to_toml(config: Config) -> str:
    """The whole configuration as TOML text, every default spelled out."""
    import tomli_w  # by those alone who write one: a bench of the kernels runs without it

    return tomli_w.dumps(dataclasses.asdict(config))
