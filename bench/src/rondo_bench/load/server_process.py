"""A server as a child process that says `ready <address>` on its output."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rondo.errors import PeerError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class ServerFailed(PeerError):
    """It did not say that it is ready."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and its process."""

    url: str
    pid: int


@asynccontextmanager
async def python_server(
    module: str, options: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> AsyncIterator[Server]:
    """Runs `python -m module options` while the block lasts.

    Raises:
        ServerFailed: it ended, or said nothing in time.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        assert process.stdout is not None  # a pipe was asked for
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.startswith(b"ready "):
            raise ServerFailed(f"{module} did not start")
        yield Server(line.split()[1].decode(), process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
