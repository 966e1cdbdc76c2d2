"""One program of a local cluster as a child process: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import msgspec

from rondo.bus.tasks import end_task
from rondo.errors import RondoError
from rondo.local.process import die_with_parent
from rondo.service import logs

log = logging.getLogger("rondo.up")

READY_POLL_S = 0.05
#: A program that does not say within this time whether it is ready is not.
READY_TIMEOUT_S = 2.0
#: Pause before a program that died is started again, doubled each time up to the maximum.
RESTART_PAUSE_S = 0.5
MAX_RESTART_PAUSE_S = 10.0
#: A program that lived this long starts its pauses anew.
STABLE_S = 5.0
LOG_TAIL_LINES = 15
#: A gateway's second SIGTERM comes this much later: it then ends the answers it would wait for.
HURRY_S = 2.0


class ChildFailed(RondoError):
    """A program of the cluster ended before it was ready."""

    def __init__(self, name: str, code: int | None, tail: str) -> None:
        super().__init__(f"{name} ended with exit code {code}; the end of its log:\n{tail}")
        self.name = name
        self.code = code


class Child:
    """`python -m <module>` with its settings, log file and HTTP port.

    Args:
        kind: coordinator, gateway or worker; `name` tells those of a kind apart.
        fds: files that it inherits.
        can_overlap: two processes of it may run at the same time while it is replaced.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        env: Mapping[str, str],
        run_dir: Path,
        *,
        fds: Sequence[int] = (),
        can_overlap: bool = True,
    ) -> None:
        self.kind = kind
        self.name = name
        self.port = 0
        self.ready = False
        self.problem = ""  # why it is not ready, in its own words
        self._module = f"rondo_{kind}"
        self._fds = tuple(fds)
        self._can_overlap = can_overlap
        self._log_file = run_dir / f"{name}.log"
        self._log_begin = 0  # where the log of this process begins
        self._state_file = run_dir / f"{name}.port"
        self._env = {**os.environ, **env, "RONDO_STATE_FILE": str(self._state_file)}
        self._process: asyncio.subprocess.Process | None = None
        self._old: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The process id; None while it is down."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    async def start(self) -> None:
        """Starts the process."""
        self.ready, self.problem = False, "is starting"
        self._state_file.unlink(missing_ok=True)
        with self._log_file.open("ab") as output:
            self._log_begin = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
                pass_fds=self._fds,
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
        self.ready = True

    def keep(self) -> None:
        """From now on, starts the process again when it dies."""
        if self._stopped:
            return
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, for a gateway twice, and SIGKILL when that does not help in time."""
        self._stopped = True
        await end_task(self._keeper)
        self.ready = False
        hurry_s = HURRY_S if self.kind == "gateway" else math.inf
        processes = [self._old, self._process]
        await asyncio.gather(*(self._end(one, timeout_s, hurry_s) for one in processes))

    async def replace(
        self, session: aiohttp.ClientSession, stop_timeout_s: float, ready_timeout_s: float
    ) -> None:
        """A new process instead of the one that runs; the new one is ready then.

        Where two may run, the old one goes on until the new one is ready, and for ever if that
        never is.

        Args:
            stop_timeout_s: after which the old one is killed.

        Raises:
            ChildFailed: the new one ended. TimeoutError: it was not ready in time.
        """
        await end_task(self._keeper)
        old_port, self.ready = self.port, self._can_overlap
        try:
            if self._can_overlap:
                self._old, self._process = self._process, None
            else:
                await self._end(self._process, stop_timeout_s)
            await self.start()
            async with asyncio.timeout(ready_timeout_s):
                await self.wait_ready(session)
        except (ChildFailed, TimeoutError):
            if self._old and self._old.returncode is None:
                await self._end(self._process, HURRY_S)
                self._process, self._old, self.ready = self._old, None, True
                self.port = old_port
                self._state_file.write_bytes(msgspec.json.encode({"port": old_port}))
            raise
        finally:
            self.keep()
        await self._end(self._old, stop_timeout_s)
        self._old = None

    def log_tail(self) -> str:
        """The last lines that this process has logged."""
        if not self._log_file.exists():
            return ""
        with self._log_file.open("rb") as log_file:
            log_file.seek(self._log_begin)
            lines = log_file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    async def _end(
        self,
        process: asyncio.subprocess.Process | None,
        timeout_s: float,
        hurry_s: float = math.inf,
    ) -> None:
        if process is None or process.returncode is not None:
            return
        for wait_s in (hurry_s, timeout_s - hurry_s) if hurry_s < timeout_s else (timeout_s,):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await process.wait()
                return
        logs.warning(log, "killed", program=self.name, after_s=timeout_s)
        process.kill()
        await process.wait()

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            self.port = msgspec.json.decode(self._state_file.read_bytes())["port"]
            async with session.get(f"http://127.0.0.1:{self.port}/readyz") as response:
                self.problem = (await response.json()).get("problem", "")
                return response.status == 200
        except (FileNotFoundError, aiohttp.ClientError, TimeoutError):
            return False

    async def _keep(self) -> None:
        pause_s = RESTART_PAUSE_S
        timeout = aiohttp.ClientTimeout(total=READY_TIMEOUT_S)
        while True:
            process = self._process
            started_s = time.monotonic()
            code = await process.wait() if process else None
            self.ready = False
            logs.warning(log, "program_died", program=self.name, code=code, restart_in_s=pause_s)
            if time.monotonic() - started_s > STABLE_S:
                pause_s = RESTART_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_RESTART_PAUSE_S)
            await self.start()
            async with aiohttp.ClientSession(timeout=timeout) as session:
                with contextlib.suppress(ChildFailed):
                    await self.wait_ready(session)
