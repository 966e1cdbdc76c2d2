"""Numbers as bytes for the bus: little-endian, whatever the machine."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Any


def pack(code: str, numbers: Sequence[float]) -> bytes:
    """The numbers as items of `code`, one of Python's `array` ("i": int32, "f": float32)."""
    return _ordered(array(code, numbers)).tobytes()


def unpack(code: str, data: bytes) -> list[Any]:
    """The inverse of `pack`; floats where `code` is one of theirs.

    Raises:
        ValueError: the length is no multiple of an item's.
    """
    values: array[Any] = array(code)
    values.frombytes(data)
    return _ordered(values).tolist()


def _ordered(values: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
