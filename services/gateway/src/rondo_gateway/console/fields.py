"""Fields of events as the console takes them: what is not there, or not of its type, is empty."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.wire.messages import Event


def string(event: Event, key: str) -> str:
    """A text, or an empty one."""
    value = event.fields.get(key)
    return value if isinstance(value, str) else ""


def strings(event: Event, key: str) -> Sequence[str]:
    """Texts, or none."""
    value = event.fields.get(key)
    return value if isinstance(value, list) else ()


def integer(event: Event, key: str) -> int:
    """A number, or 0."""
    value = event.fields.get(key)
    return value if isinstance(value, int) else 0


def number(event: Event, key: str) -> float | None:
    """A number, or None."""
    value = event.fields.get(key)
    return float(value) if isinstance(value, int | float) else None


def seconds(event: Event, key: str) -> float | None:
    """A field in ms, in seconds."""
    value = number(event, key)
    return None if value is None else value / 1000


def millis(event: Event, key: str) -> float | None:
    """A field in seconds, in ms."""
    value = number(event, key)
    return None if value is None else round(value * 1000, 2)
