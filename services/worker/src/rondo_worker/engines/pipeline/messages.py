"""What the controller and its stages tell each other: msgpack, one message a frame, no pickle.

Every stage gets the same frames in the same order, so a step is encoded once. Activations do not
come this way; see `link`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rondo.types import Phase
from rondo_worker.engines.base import EngineRequest, StepLogprobs


class StageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage is to load; the same names as in `PipelineEngine.load`.

    `layers` has the first layer and the one behind the last; `rendezvous` is a file that does not
    exist yet, in a folder of this engine, where the stages find each other; `cores` are those that
    the stage may run on, none: all.
    """

    stage: int
    num_stages: int
    folder: str
    layers: tuple[int, int]
    device: str
    backend: str
    dtype: str
    block_size: int
    max_model_len: int
    native: bool
    rendezvous: str
    cores: tuple[int, ...] = ()
    num_threads: int | None = None


# From the controller


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Take this pool; all other stages have loaded, too."""

    num_blocks: int


class Add(msgspec.Struct, frozen=True, tag=True):
    """A request, before its first step."""

    request: EngineRequest


class Remove(msgspec.Struct, frozen=True, tag=True):
    """A request is over."""

    request_id: str


class StepItem(msgspec.Struct, frozen=True, array_like=True):
    """A `PlanItem`; `drawn` are tokens of its answer that the stages have not been told yet."""

    request_id: str
    start: int
    num_tokens: int
    blocks: Sequence[int]
    drawn: Sequence[int]


class Step(msgspec.Struct, frozen=True, tag=True):
    """Compute this; numbers count up by one. `items` has `num_chunks` chunks, then decodes."""

    number: int
    phase: Phase
    num_chunks: int
    items: Sequence[StepItem]

    @property
    def num_rows(self) -> int:
        """Tokens that are computed."""
        return sum(item.num_tokens for item in self.items)


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Tell your state, now, amid your steps."""


class AskSpans(msgspec.Struct, frozen=True, tag=True):
    """Tell your timeline, once all steps before this are computed; from the first time on, keep
    one."""


Command = Begin | Add | Remove | Step | Ask | AskSpans


# From a stage


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The weights are there. `free_bytes` are free on the stage's device."""

    weight_bytes: int
    free_bytes: int


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The stage ends: a `ConfigError` (`model`: a `ModelError`), or another one without setting."""

    setting: str
    problem: str
    model: bool = False


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The pool is there, and the neighbours are reached."""

    kv_bytes: int


class StepFailed(msgspec.Struct, frozen=True, tag=True):
    """A stage could not compute its part of a step; the last stage's `StepEnd` follows.

    `request_ids` are to blame, all of the step's where there are none; `param`: the step asks for
    something unsupported (`UnsupportedRequest`).
    """

    number: int
    problem: str
    request_ids: tuple[str, ...] = ()
    param: str = ""


class StepEnd(msgspec.Struct, frozen=True, tag=True):
    """A step is through. `tokens` has the next token of each sequence that it completed; where not
    `ok`, a stage has said why."""

    number: int
    ok: bool
    tokens: dict[str, int] = {}
    logprobs: StepLogprobs | None = None


class StageSpan(msgspec.Struct, frozen=True, array_like=True):
    """When a stage computed a step: from having its input until its output was on its way, in
    seconds of CLOCK_MONOTONIC. `busy_s`: CPU time of the stage's thread in it."""

    number: int
    phase: Phase
    begin_s: float
    end_s: float
    busy_s: float


class State(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Ask`: the most memory held so far."""

    peak_bytes: int


class Spans(msgspec.Struct, frozen=True, tag=True):
    """The answer to `AskSpans`: the timeline since the last answer."""

    spans: list[StageSpan]


Report = Loaded | LoadFailed | Ready | StepFailed | StepEnd | State | Spans

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def encode(message: Command | Report | StageOptions) -> bytes:
    """A message as a frame."""
    return _encoder.encode(message)


def decode_command(frame: bytes) -> Command:
    """A controller's message."""
    return _commands.decode(frame)


def decode_report(frame: bytes) -> Report:
    """A stage's message."""
    return _reports.decode(frame)


def decode_options(frame: bytes) -> StageOptions:
    """What a stage is started with."""
    return msgspec.msgpack.decode(frame, type=StageOptions)
