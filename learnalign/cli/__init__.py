"""The command line: one verb a stage, `run` for all of them, and questions about a run directory.

    application  the command `learnalign`, with every verb in the order of its help
    stages       the verbs that work on a run: run, plan, and one a stage
    logged       the verbs that read what others sampled: import, next
    directory    the verbs that ask about a run directory: status, export, suspects, check
    tour         the verbs for a first look: demo, guide
    options      options of several verbs
    asked        the settings that a command line asks for
    output       results, and errors in one line

Errors that a user can repair end in one line on standard error and exit code 2; an interruption ends in 130.
Results go to standard output, progress to standard error. Heavy modules are imported inside the verbs, so that
`--help` answers at once. This package computes nothing.
"""

from learnalign.cli.application import app, main

__all__ = ["app", "main"]
