"""Traces of requests: what each program did for one, and when, tied together over the bus.

    chat rondo-tiny            gateway       arrival ... last token sent
    ├─ admission               gateway       Submit ... Admitted, however often it asked
    │  └─ admit                coordinator   Submit heard ... decided
    └─ run                     worker        prompt there ... last token
       ├─ turn wait            worker        ... first prefill step
       ├─ prefill              worker        ... first token
       └─ decode               worker        ... last token

Off by default: then nothing is recorded, nothing travels, and OpenTelemetry is not imported. As
with logs, where spans go is a matter of the process: `start` decides it, once.

The context of a span travels as W3C traceparent, in the field of that name of `Submit` and `Run`.
Instants given here are of time.monotonic. Hosts share no clock, so each program stamps its own
spans with its own wall clock, as OpenTelemetry has it; within one program durations are exact.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from rondo.errors import ConfigError

#: How long a program that ends waits for its last spans to be sent.
STOP_TIMEOUT_S = 3.0

Attributes: TypeAlias = Mapping[str, str | int | float | bool | Sequence[str]]


class Kind(Enum):
    """Which side of a call a span is of."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span:
    """A span that is not recorded: all it does is nothing. Recorded ones derive from it."""

    __slots__ = ()

    def __bool__(self) -> bool:
        """Whether it is recorded: what it is told need not be worked out otherwise."""
        return False

    @property
    def traceparent(self) -> str:
        """The context to send along; empty: there is none."""
        return ""

    def child(self, name: str, began_s: float | None = None, kind: Kind = Kind.INTERNAL) -> Span:
        """A span within this one; it begins now unless `began_s` says when."""
        return self

    def end(
        self,
        at_s: float | None = None,
        attributes: Attributes | None = None,
        error: str | None = None,
    ) -> None:
        """It is over, now or at `at_s`; `error` says why it failed."""


NOTHING = Span()


class Recorder(Protocol):
    """Where spans go to."""

    def begin(self, name: str, traceparent: str, began_s: float | None, kind: Kind) -> Span:
        """See the function of this name."""
        ...

    def close(self) -> None:
        """Sends what was not sent yet; may take long."""
        ...


_recorder: Recorder | None = None


def start(traces: str, program: str, program_id: str) -> None:
    """Records spans from now on if `traces` is "on".

    Raises:
        ConfigError: OpenTelemetry is not installed, or does not understand its settings.
    """
    if traces == "on":
        try:
            from rondo.tracing_otel import OtelRecorder
        except ImportError as error:
            problem = f"needs OpenTelemetry: pip install 'rondo[traces]' ({error})"
            raise ConfigError("RONDO_TRACES", problem) from error
        set_recorder(OtelRecorder(program, program_id))


def stop(timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Records no more, and sends what was not sent yet, in bounded time."""
    recorder = _recorder
    set_recorder(None)
    if recorder is not None:
        closing = threading.Thread(target=recorder.close, name="traces-end", daemon=True)
        closing.start()
        closing.join(timeout_s)


def set_recorder(recorder: Recorder | None) -> None:
    """Where spans of this process go to; None: nowhere."""
    global _recorder
    _recorder = recorder


def begin(
    name: str, traceparent: str = "", began_s: float | None = None, kind: Kind = Kind.INTERNAL
) -> Span:
    """A span below that of `traceparent`, or the first of a trace if this is empty or no context.

    It begins now unless `began_s` says when. Not recorded while traces are off, and where whoever
    began the trace, or the sampler of the settings, does not want it.
    """
    if _recorder is None:
        return NOTHING
    return _recorder.begin(name, traceparent, began_s, kind)
