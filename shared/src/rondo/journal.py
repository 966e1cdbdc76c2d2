"""The decision journal of a macro-instance: what its policy was told, and what it decided.

A file is MAGIC, a JournalHeader, then records in order, then (unless the writer died) an end. Each
of them is a frame: payload length and CRC-32 of the payload, CRC-32 of those two (little-endian
u32 each), then the payload, msgpack. msgpack because budgets may be infinite and floats must come
back bit for bit; `rondo-bench replay --show` prints a journal as JSON lines. The frame's head has a
checksum of its own so that a damaged length is not taken for a record that the writer's death cut
short: the latter is normal.

What is read back equals what was written, InstanceInfo.latency included: each kind of latency model
is stored under a tag (`_StoredProfile`), and a kind without one cannot be journalled.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import msgspec

from rondo import __version__
from rondo.errors import RondoError
from rondo.perf.profile import LatencyProfile
from rondo.policy import events
from rondo.policy.catalog import PolicySettings
from rondo.policy.events import Decision, Event
from rondo.types import LatencyModel

#: Raised when the format changes in a way that an older program cannot read.
SCHEMA_VERSION = 1
MAGIC = b"rondo journal\n"
SUFFIX = ".journal"

T = TypeVar("T", bound=msgspec.Struct)

_HEAD = struct.Struct("<III")
_SUMMED = struct.Struct("<II")


class JournalError(RondoError):
    """A file is no journal, or is damaged.

    Args:
        path: the file.
        problem: what is wrong, in one sentence.
        offset: where the frame begins, in bytes from the file's start.
        number: which record it is, counted from 1; 0 is the header.
    """

    def __init__(self, path: Path, problem: str, offset: int, number: int) -> None:
        what = f"record {number}" if number else "header"
        super().__init__(f"{path}: {what} at byte {offset}: {problem}")
        self.path = path
        self.problem = problem
        self.offset = offset
        self.number = number


class JournalHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What made the decisions. `policy` and `settings` are the arguments of `make_policy`."""

    macro_id: str
    epoch: int
    recorded_by: str
    policy: str
    settings: PolicySettings
    version: int = SCHEMA_VERSION
    rondo_version: str = __version__


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An event and the decision it led to."""

    event: Event
    decision: Decision


class Ending(str, Enum):
    """How a journal ends.

    CLOSED: the owner stopped. FULL: the size limit was reached. SLOW: the disk could not keep up.
    FAILED: a record could not be written. OPEN: no end was written; the writer still runs, or died
    between records. TORN: it died within a record, which is left out.
    """

    CLOSED = "closed"
    FULL = "full"
    SLOW = "slow"
    FAILED = "failed"
    OPEN = "open"
    TORN = "torn"


# What the frames hold


class _StoredProfile(LatencyProfile, frozen=True, kw_only=True, tag="profile"):
    """A LatencyProfile under its tag; a new kind of model gets a class like this one."""


class _StoredInfo(events.InstanceInfo, frozen=True, kw_only=True):
    latency: _StoredProfile


class _StoredJoined(events.InstanceJoined, frozen=True, kw_only=True, tag="InstanceJoined"):
    instance: _StoredInfo


_StoredEvent: TypeAlias = (
    events.RequestArrived
    | events.RequestCancelled
    | _StoredJoined
    | events.InstanceLeft
    | events.InstanceReported
    | events.TurnClosed
    | events.Tick
)


class _Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    event: _StoredEvent
    decision: Decision


class _End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    ending: Ending


class _Version(msgspec.Struct, frozen=True):
    version: int


_encode = msgspec.msgpack.Encoder().encode
_decode_step = msgspec.msgpack.Decoder(_Step | _End).decode
_decode_header = msgspec.msgpack.Decoder(JournalHeader).decode
_decode_version = msgspec.msgpack.Decoder(_Version).decode


def header_bytes(header: JournalHeader) -> bytes:
    """The beginning of a file."""
    return MAGIC + _frame(_encode(header))


def record_bytes(event: Event, decision: Decision) -> bytes:
    """The frame of one record.

    Raises:
        TypeError: the event holds a kind of latency model that has no tag.
    """
    return _frame(_encode(_Step(_stored(event), decision)))


def end_bytes(ending: Ending) -> bytes:
    """The frame that ends a file."""
    return _frame(_encode(_End(ending)))


def _frame(payload: bytes) -> bytes:
    summed = _SUMMED.pack(len(payload), zlib.crc32(payload))
    return summed + zlib.crc32(summed).to_bytes(4, "little") + payload


def _stored(event: Event) -> _StoredEvent:
    if not isinstance(event, events.InstanceJoined):
        return event
    latency = _stored_latency(event.instance.latency)
    return _as(_StoredJoined, event, instance=_as(_StoredInfo, event.instance, latency=latency))


def _stored_latency(latency: LatencyModel) -> _StoredProfile:
    if type(latency) is not LatencyProfile:
        raise TypeError(f"a {type(latency).__name__} cannot be journalled")
    return _as(_StoredProfile, latency)


def _restored(event: _StoredEvent) -> Event:
    if not isinstance(event, _StoredJoined):
        return event
    latency = _as(LatencyProfile, event.instance.latency)
    info = _as(events.InstanceInfo, event.instance, latency=latency)
    return _as(events.InstanceJoined, event, instance=info)


def _as(cls: type[T], value: msgspec.Struct, **changes: Any) -> T:
    """A struct of a class that has the same fields, some of them changed."""
    fields = {name: getattr(value, name) for name in cls.__struct_fields__}
    return cls(**{**fields, **changes})


class JournalReader:
    """Iterates over the records of a file; `ending` is known when that is through.

    Raises:
        JournalError: from the constructor, no journal that this program can read; from the
            iteration, a damaged record. OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ending: Ending | None = None
        with path.open("rb") as file:
            self.header = self._read_header(file)
            self._start = file.tell()

    def __iter__(self) -> Iterator[Record]:
        self.ending = None
        with self.path.open("rb") as file:
            file.seek(self._start)
            number = 1
            while (payload := self._payload(file, number)) is not None:
                offset = file.tell() - len(payload) - _HEAD.size
                try:
                    step = _decode_step(payload)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise JournalError(self.path, str(error), offset, number) from error
                if isinstance(step, _End):
                    self.ending = step.ending
                    return
                yield Record(event=_restored(step.event), decision=step.decision)
                number += 1

    def _payload(self, file: BinaryIO, number: int) -> bytes | None:
        """The next frame's; None, and `ending` set, where the file is at its end."""
        offset = file.tell()
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            self.ending = Ending.TORN if head else Ending.OPEN
            return None
        length, checksum, head_checksum = _HEAD.unpack(head)
        if zlib.crc32(head[: _SUMMED.size]) != head_checksum:
            raise JournalError(self.path, "damaged: its length is not true", offset, number)
        payload = file.read(length)
        if len(payload) < length:
            self.ending = Ending.TORN
            return None
        if zlib.crc32(payload) != checksum:
            raise JournalError(self.path, "damaged: wrong checksum", offset, number)
        return payload

    def _read_header(self, file: BinaryIO) -> JournalHeader:
        if file.read(len(MAGIC)) != MAGIC:
            raise JournalError(self.path, "this is no journal of Rondo's", 0, 0)
        offset = file.tell()
        payload = self._payload(file, 0)
        if payload is None:
            raise JournalError(self.path, "cut short", offset, 0)
        try:
            version = _decode_version(payload).version
            if version != SCHEMA_VERSION:
                problem = f"schema version {version}, this program reads {SCHEMA_VERSION}"
                raise JournalError(self.path, problem, offset, 0)
            return _decode_header(payload)
        except msgspec.DecodeError as error:
            raise JournalError(self.path, str(error), offset, 0) from error
