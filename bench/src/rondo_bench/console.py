"""What commands have in common on the command line: numbers above 0, and progress on stderr."""

from __future__ import annotations

import argparse
import sys


def positive(text: str) -> int:
    """The type of an option that is at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def say(line: str) -> None:
    """Progress for people: stdout is for figures."""
    print(line, file=sys.stderr, flush=True)
