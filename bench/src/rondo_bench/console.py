"""What commands have in common on the command line: numbers above 0, and progress on stderr."""

from __future__ import annotations

import sys

from rondo.local.arguments import whole

#: The type of an option that is at least 1.
positive = whole(1)


def say(line: str) -> None:
    """Progress for people: stdout is for figures."""
    print(line, file=sys.stderr, flush=True)
