"""One program of a local cluster as a child process: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec

from rondo.bus.tasks import end_task
from rondo.errors import RondoError
from rondo.local.process import die_with_parent
from rondo.service import logs

log = logging.getLogger("rondo.up")

READY_POLL_S = 0.05
#: Pause before a program that died is started again, doubled each time up to the maximum.
RESTART_PAUSE_S = 0.5
MAX_RESTART_PAUSE_S = 10.0
#: A program that lived this long starts its pauses anew.
STABLE_S = 30.0
LOG_TAIL_LINES = 15


class ChildFailed(RondoError):
    """A program of the cluster ended before it was ready."""

    def __init__(self, name: str, code: int | None, tail: str) -> None:
        super().__init__(f"{name} ended with exit code {code}; the end of its log:\n{tail}")
        self.name = name
        self.code = code


class Child:
    """`python -m <module>` with its settings, log file and HTTP port."""

    def __init__(self, name: str, module: str, env: Mapping[str, str], run_dir: Path) -> None:
        self.name = name
        self.port = 0
        self._module = module
        self._log_file = run_dir / f"{name}.log"
        self._state_file = run_dir / f"{name}.port"
        self._env = {**os.environ, **env, "RONDO_STATE_FILE": str(self._state_file)}
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts the process."""
        self._state_file.unlink(missing_ok=True)
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
                start_new_session=True,  # Ctrl-C in a terminal reaches the launcher only
            )

    async def wait_ready(self, session: aiohttp.ClientSession) -> None:
        """Returns when /readyz answers 200.

        Raises:
            ChildFailed: the process ended first.
        """
        while not await self._is_ready(session):
            if self._process is None or self._process.returncode is not None:
                code = self._process.returncode if self._process else None
                raise ChildFailed(self.name, code, self.log_tail())
            await asyncio.sleep(READY_POLL_S)

    def keep(self) -> None:
        """From now on, starts the process again when it dies."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL when that does not help in time."""
        await end_task(self._keeper)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            logs.warning(log, "killed", program=self.name, after_s=timeout_s)
            process.kill()
            await process.wait()

    def log_tail(self) -> str:
        """The last lines of the log."""
        if not self._log_file.exists():
            return ""
        lines = self._log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            self.port = msgspec.json.decode(self._state_file.read_bytes())["port"]
            async with session.get(f"http://127.0.0.1:{self.port}/readyz") as response:
                return response.status == 200
        except (FileNotFoundError, aiohttp.ClientError, TimeoutError):
            return False

    async def _keep(self) -> None:
        pause_s = RESTART_PAUSE_S
        while True:
            assert self._process is not None  # keep() comes after start()
            started_s = time.monotonic()
            code = await self._process.wait()
            logs.warning(log, "program_died", program=self.name, code=code, restart_in_s=pause_s)
            if time.monotonic() - started_s > STABLE_S:
                pause_s = RESTART_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_RESTART_PAUSE_S)
            await self.start()
