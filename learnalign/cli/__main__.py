"""`python -m learnalign.cli` is the command `learnalign`, as `python -m learnalign` is."""

from learnalign.cli import main

if __name__ == "__main__":
    main()
