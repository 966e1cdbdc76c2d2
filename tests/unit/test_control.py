"""Commands to a launcher: what it replies, refuses, and does though nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.local import control
from rondo.local.control import (
    CommandFailed,
    ControlServer,
    Listing,
    Program,
    Progress,
    Reply,
    Request,
    Restart,
    command,
    list_programs,
)

PROGRAM = Program(name="worker-0", kind="worker", pid=7, port=8, ready=True)


class Launcher:
    """Restarts nothing, in two steps."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.done: list[str] = []

    async def obey(self, request: Request, reply: Callable[[Reply], None]) -> None:
        if not isinstance(request, Restart):
            reply(Listing((PROGRAM,)))
            return
        if request.what == "nobody":
            raise ConfigError("restart", "there is no such program")
        reply(Progress("begun"))
        await self.go_on.wait()
        self.done.append(request.what)
        reply(Progress("done"))


@asynccontextmanager
async def launched(run_dir: Path) -> AsyncIterator[Launcher]:
    launcher = Launcher()
    server = ControlServer(run_dir, launcher.obey)
    await server.start()
    try:
        yield launcher
    finally:
        await server.stop()


async def test_replies_come_as_steps_are_made(tmp_path: Path) -> None:
    async with launched(tmp_path) as launcher:
        replies = command(tmp_path, Restart("all"))
        assert await anext(replies) == Progress("begun")
        launcher.go_on.set()
        assert [reply async for reply in replies] == [Progress("done")]
        assert await list_programs(tmp_path) == (PROGRAM,)


async def test_a_folder_with_a_long_name_will_do(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long" * 40)
    run_dir.mkdir()
    async with launched(run_dir):
        assert await list_programs(run_dir) == (PROGRAM,)
        assert (run_dir / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_a_refusal_says_why(tmp_path: Path) -> None:
    async with launched(tmp_path):
        with pytest.raises(CommandFailed, match="there is no such program"):
            await anext(command(tmp_path, Restart("nobody")))
        with control._address(tmp_path) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"garbage\n")
        assert b"Refused" in await reader.readline()
        writer.close()
    with pytest.raises(ConfigError, match="no launcher listens"):
        await list_programs(tmp_path)


async def test_what_was_begun_goes_on_though_nobody_listens(tmp_path: Path) -> None:
    async with launched(tmp_path) as launcher:
        replies = command(tmp_path, Restart("all"))
        await anext(replies)
        await replies.aclose()  # type: ignore[attr-defined]
        launcher.go_on.set()
        async with asyncio.timeout(5):
            while not launcher.done:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)


async def test_a_launcher_that_stops_says_so(tmp_path: Path) -> None:
    async with launched(tmp_path):
        replies = command(tmp_path, Restart("all"))
        await anext(replies)
    with pytest.raises(CommandFailed, match="being stopped"):
        await anext(replies)
