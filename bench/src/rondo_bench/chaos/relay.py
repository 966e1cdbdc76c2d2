"""A TCP relay between a cluster's programs and their bus, which can part them.

Programs connect to the relay as if it were the server; it learns their names from what they tell
the server first. A name can be blocked: nothing of it gets through, on old connections or new
ones, and nobody is told. What was underway arrives when the name is free again, if its connection
still stands then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

CHUNK_BYTES = 65536


class _Connection:
    """One program's connection, both ways."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.name = ""
        self._writers = (client, server)

    def abort(self) -> None:
        """Ends it at once, without a word."""
        for writer in self._writers:
            writer.transport.abort()


class Relay:
    """Relays to the server at `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._blocked: dict[str, asyncio.Event] = {}
        self.url = ""

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Ends all connections."""
        assert self._server is not None  # start() comes first
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def names(self) -> list[str]:
        """Who is connected, in alphabetical order."""
        return sorted({one.name for one in self._connections.values() if one.name})

    def block(self, name: str) -> None:
        """From now on nothing gets through to or from `name`."""
        self._blocked.setdefault(name, asyncio.Event())

    def free(self, name: str) -> None:
        """What was held back arrives, and all goes on."""
        if event := self._blocked.pop(name, None):
            event.set()

    def free_all(self) -> None:
        """Nobody is blocked any more."""
        for name in list(self._blocked):
            self.free(name)

    def cut(self, name: str) -> None:
        """Ends the connections of `name`; it may come back at once unless it is blocked."""
        for connection in list(self._connections.values()):
            if connection.name == name:
                connection.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # it runs as one
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is away
            writer.transport.abort()
            return
        connection = self._connections[task] = _Connection(writer, server_writer)
        try:
            await asyncio.gather(
                self._pump(connection, reader, server_writer, named=True),
                self._pump(connection, server_reader, writer),
            )
        finally:
            connection.abort()
            del self._connections[task]

    async def _pump(
        self,
        connection: _Connection,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        *,
        named: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if named and not connection.name:
                    connection.name = _name_in(data)
                while event := self._blocked.get(connection.name):
                    await event.wait()
                if target.is_closing():
                    break
                target.write(data)
                await target.drain()
        connection.abort()  # one side has gone, so the other one must go, too


def _name_in(data: bytes) -> str:
    """The name in a client's CONNECT, which is the first that it says."""
    line = data.partition(b"\r\n")[0]
    if not line.startswith(b"CONNECT "):
        return ""
    with contextlib.suppress(ValueError):
        return str(json.loads(line[8:]).get("name") or "")
    return ""
