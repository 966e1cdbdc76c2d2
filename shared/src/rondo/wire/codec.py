"""The one codec: a byte of schema version, then msgpack."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rondo.errors import DecodeError
from rondo.packing import pack, unpack
from rondo.wire.messages import Message

#: Raised when a message changes in a way that an older program cannot read.
SCHEMA_VERSION = 1

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Bytes for the bus."""
    buffer = bytearray((SCHEMA_VERSION,))
    _encoder.encode_into(message, buffer, 1)
    return bytes(buffer)


def decode(data: bytes) -> Message:
    """The message in `data`.

    Raises:
        DecodeError: empty, of another schema version, or no message of ours; says which field.
    """
    if not data:
        raise DecodeError("empty message")
    if data[0] != SCHEMA_VERSION:
        raise DecodeError(f"schema version {data[0]}, this program speaks {SCHEMA_VERSION}")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from error


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian int32."""
    return pack("i", tokens)


def unpack_tokens(data: bytes) -> list[int]:
    """The inverse of pack_tokens.

    Raises:
        DecodeError: the length is no multiple of four.
    """
    if len(data) % 4:
        raise DecodeError(f"prompt: {len(data)} bytes are no whole number of int32 tokens")
    return unpack("i", data)


def pack_floats(numbers: Sequence[float]) -> bytes:
    """Numbers as little-endian float32."""
    return pack("f", numbers)


def unpack_floats(data: bytes) -> list[float]:
    """The inverse of pack_floats.

    Raises:
        DecodeError: the length is no multiple of four.
    """
    if len(data) % 4:
        raise DecodeError(f"vector: {len(data)} bytes are no whole number of float32 numbers")
    return unpack("f", data)
