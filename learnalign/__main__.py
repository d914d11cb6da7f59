"""`python -m learnalign` is the command `learnalign`."""

from learnalign.cli import main

main()
