"""Structured logs: one line an event, `time level logger event key=value ...`, on stderr.

No prompt text and no secrets: callers pass ids, counts and durations. Nor do they come with an
exception: what it says is logged where a program says it of itself, and not where it quotes what
it was given, as ValueError and KeyError do. At level DEBUG there are whole tracebacks instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import TracebackType

import msgspec

from rondo.errors import RondoError

_FIELDS = "rondo_fields"
#: Exceptions whose texts are about the program, and not about data.
_TELLING = (RondoError, OSError, RuntimeError, MemoryError)
_MAX_FRAMES = 12
_MAX_DEPTH = 4


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
            error = record.exc_info[1]
            if error is None or logging.getLogger("rondo").isEnabledFor(logging.DEBUG):
                text += "\n" + self.formatException(record.exc_info)
            else:
                text += "".join(f"\n{line}" for line in outline(error))
        return text


def outline(error: BaseException, depth: int = 0) -> Iterator[str]:
    """What an exception is and where it came from, line by line, without any data."""
    said = f": {error}" if isinstance(error, _TELLING) else ""
    yield f"{'  ' * depth}{type(error).__module__}.{type(error).__qualname__}{said}"
    for frame in list(_frames(error.__traceback__))[-_MAX_FRAMES:]:
        yield f"{'  ' * depth}  at {frame}"
    if depth == _MAX_DEPTH:
        return
    within = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for other in [*within, cause]:
        if other is not None:
            yield from outline(other, depth + 1)


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        frame = traceback.tb_frame
        where = f"{frame.f_globals.get('__name__', '?')}:{traceback.tb_lineno}"
        yield f"{where} {frame.f_code.co_qualname}"
        traceback = traceback.tb_next


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value and not any(c in value for c in ' ="\n'):
        return value
    return msgspec.json.encode(value, enc_hook=str).decode()
