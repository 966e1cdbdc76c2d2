"""Flame graphs of a running program, drawn by py-spy."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rondo.errors import ConfigError

HELP = "folder for flame graphs of the coordinator under the offered load; needs py-spy"
RATE_HZ = 250
DRAW_TIMEOUT_S = 30.0


def flame_name(size: int) -> str:
    """The file with the coordinator's graph at a number of instances."""
    return f"flame-coordinator-{size}.svg"


@asynccontextmanager
async def flame_graph(pid: int, page: Path) -> AsyncIterator[None]:
    """Samples a Python program of the same user while the block runs; writes an SVG.

    Raises:
        ConfigError: py-spy is not there, or may not look at the program.
    """
    # Beside this Python, as commands of a virtual environment are, or anywhere.
    beside = Path(sys.executable).parent
    py_spy = shutil.which("py-spy", path=str(beside)) or shutil.which("py-spy")
    if py_spy is None:
        raise ConfigError("--flames", "py-spy is not installed (pip install py-spy)")
    _make_room(page)
    sampler = await asyncio.create_subprocess_exec(
        # The graph's title is the command line, and is to name no folder of this machine.
        *("py-spy", "record", "--pid", str(pid), "--rate", str(RATE_HZ)),
        *("--format", "flamegraph", "--output", str(page), "--duration", "unlimited"),
        executable=py_spy,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield
    finally:
        if sampler.returncode is None:
            sampler.send_signal(signal.SIGINT)  # it draws what it has
        async with asyncio.timeout(DRAW_TIMEOUT_S):
            _, said = await sampler.communicate()
    _check(page, said.decode(errors="replace"))


def _make_room(page: Path) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.unlink(missing_ok=True)


def _check(page: Path, said: str) -> None:
    if not page.exists():
        lines = said.strip().splitlines()
        raise ConfigError("--flames", lines[-1] if lines else "py-spy wrote nothing")
