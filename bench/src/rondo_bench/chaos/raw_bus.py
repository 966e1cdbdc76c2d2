"""A bare NATS client that sends bytes as they are; it does not hear what it says itself.

It speaks the few words of the protocol that this takes (docs.nats.io, "Client Protocol").
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_HELLO = (
    b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"headers":false,"echo":false,'
    b'"name":"rondo-chaos","lang":"python","version":"0","protocol":1}\r\n'
)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it is on the wire; `reply` is empty where no answer is wanted."""

    subject: str
    reply: str
    data: bytes


class RawBus:
    """One connection to a nats-server. Every method raises OSError when it is lost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> RawBus:
        """A new connection."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(_HELLO)
        return cls(reader, writer)

    async def subscribe(self, subject: str) -> None:
        """Asks for a subject's messages; on return the server knows it, and `next` yields them."""
        self._writer.write(f"SUB {subject} 1\r\nPING\r\n".encode())
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if not line:
                raise ConnectionError("the server has gone")

    async def publish(self, letter: Letter) -> None:
        """Sends a message."""
        head = f"PUB {letter.subject} {letter.reply} {len(letter.data)}\r\n"
        self._writer.write(head.encode() + letter.data + b"\r\n")
        await self._writer.drain()

    async def next(self) -> Letter:
        """The next message; answers the server's pings meanwhile.

        Raises:
            OSError: the connection is lost, or the server refused something.
        """
        while line := await self._reader.readline():
            words = line.decode().split()
            if words[:1] == ["MSG"]:
                try:
                    data = await self._reader.readexactly(int(words[-1]) + 2)
                except asyncio.IncompleteReadError as error:
                    raise ConnectionError("the server has gone") from error
                return Letter(words[1], words[3] if len(words) == 5 else "", data[:-2])
            if words[:1] == ["PING"]:
                self._writer.write(b"PONG\r\n")
            elif words[:1] == ["-ERR"]:
                raise ConnectionError(line.decode().strip())
        raise ConnectionError("the server has gone")

    def close(self) -> None:
        """Ends the connection."""
        self._writer.transport.abort()
