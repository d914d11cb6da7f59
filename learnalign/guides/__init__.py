"""The guides: Markdown pages that ship with the package, since a GPU box often has no internet.

`learnalign guide TOPIC` shows one. A page's first line is its heading, its second paragraph says what it is about.
"""

from __future__ import annotations

from importlib.resources import files

from learnalign.errors import ConfigError

TOPICS = (
    "pools",
    "sampling",
    "rewards",
    "importing",
    "suspects",
    "strategies",
    "online",
    "python",
    "how-it-works",
    "run-directory",
    "performance",
    "scaling",
    "contributing",
)
"""In the order in which one would read them."""


def page(topic: str) -> str:
    """A page's Markdown. Raises `ConfigError` for a topic that there is none of."""
    if topic not in TOPICS:
        raise ConfigError(f"there is no guide {topic!r}; there are: {', '.join(TOPICS)}")
    return files("learnalign.guides").joinpath(f"{topic}.md").read_text(encoding="utf-8")


def summary(topic: str) -> str:
    """The first sentence of a page, in one line."""
    paragraph = page(topic).split("\n\n")[1]
    return " ".join(paragraph.split()).split(". ")[0].removesuffix(".")
