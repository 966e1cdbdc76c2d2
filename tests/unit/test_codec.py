"""The codec: what goes in comes out, and whatever else comes in ends in a DecodeError."""

from __future__ import annotations

import struct
import types
import typing
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo.errors import DecodeError
from rondo.logprobs import Logprobs
from rondo.wire.codec import (
    SCHEMA_VERSION,
    decode,
    encode,
    pack_floats,
    pack_tokens,
    unpack_floats,
    unpack_tokens,
)
from rondo.wire.messages import Cancel, Message, StatusRequest, TokenDelta, TokenFrame

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
    type(None): st.none(),
    # Its byte strings must agree in length.
    Logprobs: st.integers(0, 3).map(
        lambda n: Logprobs.pack(2, [-1.0] * n, [7, 8] * n, [-2.0] * 2 * n)
    ),
}
KINDS: tuple[type[msgspec.Struct], ...] = typing.get_args(Message)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field, from its annotation."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*map(values, args))
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin is list:
        return st.lists(values(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    fields = typing.get_type_hints(hint)
    return st.builds(hint, **{name: values(field) for name, field in fields.items()})


def messages(kind: type[msgspec.Struct] | None = None) -> st.SearchStrategy[Message]:
    """Messages of one kind, or of any."""
    return values(kind) if kind else st.one_of(*map(values, KINDS))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type[msgspec.Struct]) -> None:
    @given(messages(kind))
    def check(message: Message) -> None:
        data = encode(message)
        assert data[0] == SCHEMA_VERSION
        assert decode(data) == message
        assert type(decode(data)) is kind

    check()


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    try:
        decode(data)
    except DecodeError:
        return
    assert data[0] == SCHEMA_VERSION


@given(messages(), st.data())
def test_truncated(message: Message, data: st.DataObject) -> None:
    encoded = encode(message)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode(encoded[:length])


@given(messages(), st.data())
def test_damaged(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(message))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(encoded))
    except DecodeError:
        return


@given(messages(), st.integers(0, 255).filter(lambda version: version != SCHEMA_VERSION))
def test_other_version(message: Message, version: int) -> None:
    with pytest.raises(DecodeError, match=f"schema version {version}"):
        decode(bytes([version]) + encode(message)[1:])


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(DecodeError, match="empty"):
        decode(b"")
    body = {"type": "Cancel", "request_id": 7}
    with pytest.raises(DecodeError, match="request_id"):
        decode(bytes([SCHEMA_VERSION]) + msgspec.msgpack.encode(body))
    with pytest.raises(DecodeError, match="Nonsense"):
        decode(bytes([SCHEMA_VERSION]) + msgspec.msgpack.encode({"type": "Nonsense"}))
    deep = b"\x91" * 100_000
    with pytest.raises(DecodeError):
        decode(bytes([SCHEMA_VERSION]) + deep)


def test_older_programs_may_leave_out_fields_with_defaults() -> None:
    body = {"type": "TokenFrame", "instance_id": "w", "incarnation": "a", "seq": 0}
    frame = decode(
        bytes([SCHEMA_VERSION]) + msgspec.msgpack.encode({**body, "deltas": [["r", 0, [5]]]})
    )
    delta = TokenDelta("r", 0, (5,))
    assert frame == TokenFrame(instance_id="w", incarnation="a", seq=0, deltas=(delta,))


def test_newer_programs_may_add_fields() -> None:
    body = {"type": "Cancel", "request_id": "r", "new_field": 1}
    assert decode(bytes([SCHEMA_VERSION]) + msgspec.msgpack.encode(body)) == Cancel(request_id="r")


def test_small_messages_are_small() -> None:
    assert len(encode(StatusRequest())) < 24


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=50))
def test_tokens_round_trip(tokens: list[int]) -> None:
    packed = pack_tokens(tokens)
    assert packed == struct.pack(f"<{len(tokens)}i", *tokens)
    assert unpack_tokens(packed) == tokens


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_odd_tokens(length: int) -> None:
    with pytest.raises(DecodeError, match="prompt"):
        unpack_tokens(bytes(length))


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=40))
def test_floats_survive_and_are_little_endian(numbers: list[float]) -> None:
    packed = pack_floats(numbers)
    assert packed == struct.pack(f"<{len(numbers)}f", *numbers)
    assert unpack_floats(packed) == numbers
    with pytest.raises(DecodeError):
        unpack_floats(packed + b"x")
