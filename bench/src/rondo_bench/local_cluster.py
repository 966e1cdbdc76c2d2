"""A cluster for a benchmark, started with `rondo up` as a user would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rondo.errors import PeerError

STOP_TIMEOUT_S = 20.0


class ClusterFailed(PeerError):
    """`rondo up` ended before it was ready."""


@asynccontextmanager
async def local_cluster(
    run_dir: Path, options: list[str], env: Mapping[str, str], python: str = sys.executable
) -> AsyncIterator[str]:
    """Yields the API's address; stops everything afterwards. `python` is that of its venv."""
    command = [python, "-m", "rondo.local.cli", "up", "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--run-dir",
        str(run_dir),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    try:
        assert process.stdout is not None  # a pipe was asked for
        async for line in process.stdout:
            if line.startswith(b"ready "):
                yield line.split()[1].decode()
                return
        raise ClusterFailed(f"rondo up failed; its logs are in {run_dir}")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
