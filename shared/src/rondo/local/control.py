"""How commands reach a running launcher: a unix socket in its run folder, a JSON line a message."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from rondo.bus.tasks import end_task
from rondo.errors import ConfigError, PeerError, RondoError

_SOCKET = "control.sock"
#: Longer addresses of unix sockets do not fit into the kernel's structure (104 bytes on a BSD).
MAX_ADDRESS_BYTES = 100


class Restart(msgspec.Struct, frozen=True, tag=True):
    """Replace programs one after the other: `all`, those of a kind, or one by its name."""

    what: str


class ListPrograms(msgspec.Struct, frozen=True, tag=True):
    """Which programs are there?"""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """One program of the cluster; `pid` is None while it is down."""

    name: str
    kind: str
    pid: int | None
    port: int
    ready: bool


class Listing(msgspec.Struct, frozen=True, tag=True):
    """All programs, in the order in which they are restarted."""

    programs: tuple[Program, ...]


class Progress(msgspec.Struct, frozen=True, tag=True):
    """A step was made."""

    text: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It did not work."""

    problem: str


Request: TypeAlias = Restart | ListPrograms
Reply: TypeAlias = Listing | Progress | Refused
#: Answers a request, reply by reply; raises RondoError for what does not work.
Handler: TypeAlias = Callable[[Request, Callable[[Reply], None]], Awaitable[None]]


class CommandFailed(PeerError):
    """The launcher could not do what it was told."""


class ControlServer:
    """The launcher's end. A command goes on to its end though whoever gave it has gone."""

    def __init__(self, run_dir: Path, handler: Handler) -> None:
        self._run_dir = run_dir
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens; for this user only."""
        (self._run_dir / _SOCKET).unlink(missing_ok=True)
        with _address(self._run_dir) as address:
            self._server = await asyncio.start_unix_server(self._serve, address)
        (self._run_dir / _SOCKET).chmod(0o600)

    async def stop(self) -> None:
        """Ends commands underway."""
        if self._server:
            self._server.close()
            (self._run_dir / _SOCKET).unlink(missing_ok=True)
        await end_task(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        def reply(message: Reply) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode(message) + b"\n")

        try:
            request = msgspec.json.decode(await reader.readline(), type=Request)
            await self._handler(request, reply)
        except (RondoError, msgspec.DecodeError) as error:
            reply(Refused(str(error)))
        except asyncio.CancelledError:  # the task is the stream's, which would complain
            reply(Refused("the cluster is being stopped"))
        finally:
            self._tasks.discard(task)
            writer.close()


async def command(run_dir: Path, request: Request) -> AsyncIterator[Reply]:
    """Sends a command and yields the launcher's replies until it has done it.

    Raises:
        ConfigError: no launcher listens. CommandFailed: it said why.
    """
    try:
        with _address(run_dir) as address:
            reader, writer = await asyncio.open_unix_connection(address)
    except OSError as error:
        raise ConfigError("--run-dir", f"no launcher listens in {run_dir}: {error}") from error
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        while line := await reader.readline():
            reply: Reply = msgspec.json.decode(line, type=Reply)
            if isinstance(reply, Refused):
                raise CommandFailed(reply.problem)
            yield reply
    finally:
        writer.close()


async def list_programs(run_dir: Path) -> tuple[Program, ...]:
    """The programs of a running cluster.

    Raises:
        ConfigError, CommandFailed: as `command`.
    """
    found: tuple[Program, ...] = ()
    async for reply in command(run_dir, ListPrograms()):
        if isinstance(reply, Listing):
            found = reply.programs
    return found


@contextlib.contextmanager
def _address(run_dir: Path) -> Iterator[str]:
    """The socket's path, or on Linux one by way of an open folder where that is too long."""
    path = str(run_dir / _SOCKET)
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES or sys.platform != "linux":
        yield path
        return
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{_SOCKET}"
    finally:
        os.close(folder)
