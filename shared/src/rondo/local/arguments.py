"""Values of command-line options: taken from text, or refused with what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type for `add_argument`: whole numbers from `least` to `most`."""
    wanted = f"from {least} to {most}" if most is not None else f"from {least} on"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {wanted}")
        return value

    return parse


count = whole(1, 1024)
port = whole(0, 65535)


def bounds(text: str) -> tuple[int, int]:
    """MIN:MAX, as a type for `add_argument`."""
    least, colon, most = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:MAX, e.g. 2:8")
    pair = count(least), count(most)
    if pair[0] > pair[1]:
        raise argparse.ArgumentTypeError(f"in {text!r} the first is above the second")
    return pair
