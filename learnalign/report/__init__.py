"""What a run found, for people: one self-contained HTML page and a short table for the terminal.

`render` writes the page, `summary` the terminal's table; both read the same `ReportFacts`. Importing this
package loads neither matplotlib nor rich. It computes no scores and reads no run directory: `stages` gathers
the facts and writes the file.
"""

from learnalign.report.facts import ReportFacts
from learnalign.report.page import render
from learnalign.report.terminal import summary

__all__ = ["ReportFacts", "render", "summary"]
