"""Structured logs: one line an event, `time level logger event key=value ...`, on stderr.

No prompt text and no secrets: callers pass ids, counts and durations.
"""

from __future__ import annotations

import logging
import time

import msgspec

_FIELDS = "rondo_fields"


def setup(level: str) -> None:
    """Sends all logs of the process to stderr in the one format."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rondo").setLevel(level)


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Logs an event with its fields."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={_FIELDS: fields})


def info(logger: logging.Logger, name: str, **fields: object) -> None:
    """An event at level INFO."""
    event(logger, logging.INFO, name, **fields)


def warning(logger: logging.Logger, name: str, **fields: object) -> None:
    """An event at level WARNING."""
    event(logger, logging.WARNING, name, **fields)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {record.name} "
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        tail = "".join(f" {key}={_value(value)}" for key, value in fields.items())
        text = head + record.getMessage() + tail
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value and not any(c in value for c in ' ="\n'):
        return value
    return msgspec.json.encode(value, enc_hook=str).decode()
