"""Real nats-servers for tests: a fresh one each, on a free port, restartable on the same one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamInfo

from rondo.local.nats_server import NatsServer


class ServerUnderTest(NatsServer):
    """The launcher's own server, with a few ways to hurt it."""

    async def restart(self, *, lose_store: bool = False) -> None:
        """Starts again on the same port, with what the store holds or with nothing."""
        await self.kill()
        if lose_store:
            shutil.rmtree(self.store_dir)
        await self.start()

    async def publish(self, subject: str, data: bytes) -> None:
        """Sends bytes as a foreign program would."""
        client = await nats.connect(self.url)
        await client.publish(subject, data)
        await client.flush()
        await client.close()

    async def delete_consumers(self, stream: str) -> None:
        """Ends all consumers of a stream, as a lost member of a cluster would."""
        client = await nats.connect(self.url)
        manager = client.jsm()
        for consumer in await manager.consumers_info(stream):
            await manager.delete_consumer(stream, consumer.name)
        await client.close()

    @asynccontextmanager
    async def garbling(self, subject: str) -> AsyncIterator[None]:
        """A foreign program that answers requests on a subject with garbage."""
        client = await nats.connect(self.url)

        async def garble(msg: Msg) -> None:
            await msg.respond(b"garbage")

        await client.subscribe(subject, cb=garble)
        # nats-py's flush can overtake the subscription; an answer proves that it is there.
        await client.request(subject, b"", timeout=5)
        try:
            yield
        finally:
            await client.close()


class NatsCluster:
    """Three servers that are one bus; any of them may die and come back."""

    def __init__(self, run_dir: Path, *, size: int = 3, config: str = "") -> None:
        routes = [free_port() for _ in range(size)]
        addresses = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
        self.nodes = [
            ServerUnderTest(
                run_dir / f"n{index}",
                name=f"n{index}",
                config=f"""{config}
                cluster {{
                  name: "test"
                  host: "127.0.0.1"
                  port: {port}
                  routes: [{addresses}]
                }}""",
            )
            for index, port in enumerate(routes)
        ]

    @property
    def url(self) -> str:
        """All addresses, once started."""
        return ",".join(node.url for node in self.nodes)

    async def start(self) -> None:
        """Starts all; it takes them two seconds to agree on a leader."""
        await asyncio.gather(*(node.start() for node in self.nodes))

    async def stop(self) -> None:
        """Ends those that still run."""
        await asyncio.gather(*(node.stop() for node in self.nodes))

    async def leader_of(self, bucket: str) -> ServerUnderTest:
        """The node that takes a bucket's writes."""
        info = await self._stream(bucket)
        assert info.cluster is not None
        return next(node for node in self.nodes if node.name == info.cluster.leader)

    async def replicas_of(self, bucket: str) -> int:
        """On how many nodes a bucket is, or is to be."""
        return (await self._stream(bucket)).config.num_replicas or 1

    async def _stream(self, bucket: str) -> StreamInfo:
        async with self._client() as client:
            return await client.jetstream().stream_info(f"KV_{bucket}")

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        client = await nats.connect([node.url for node in self.nodes if node.pid])
        try:
            yield client
        finally:
            await client.close()


class Proxy:
    """A TCP relay in front of a server, to say to a client what no server can be made to say."""

    def __init__(self, url: str) -> None:
        self._host, _, port = url.rpartition("//")[2].rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def say(self, data: bytes) -> None:
        """Sends bytes to all clients and hangs up."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.write(data)
            client.close()

    async def stop(self) -> None:
        """Ends all connections."""
        assert self._server is not None
        self._server.close()
        await self.say(b"")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        for source, target in ((reader, server_writer), (server_reader, writer)):
            self._tasks.append(asyncio.create_task(_relay(source, target)))


async def _relay(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
    finally:
        target.close()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
