"""The workers of a docker compose project: a driver of scaling that runs containers."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from rondo.errors import RondoError

#: Longest that a command may take; a container that is stopped may finish what it runs first.
COMMAND_TIMEOUT_S = 300.0
#: Docker gives a container the first digits of its id as host name, and so the instance its id.
ID_DIGITS = 12
#: Containers in these states run no more, and do not come back on their own.
ENDED = ("exited", "dead", "removing")
ERROR_LINES = 3

_OPERATOR_URL = "/etc/rondo/secrets/operator_url"
_ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"


class ComposeFailed(RondoError):
    """A docker command failed.

    Args:
        command: what was run.
        problem: the end of what it said.
    """

    def __init__(self, command: str, problem: str) -> None:
        super().__init__(f"`{command}`: {problem}")
        self.command = command
        self.problem = problem


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """What `docker compose ps --format json` tells of one container."""

    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Name")
    state: str = msgspec.field(name="State")

    @property
    def instance_id(self) -> str:
        """The id on the bus of the worker inside."""
        return self.id[:ID_DIGITS]

    @property
    def number(self) -> int:
        """Compose counts the containers of a service from 1."""
        tail = self.name.rpartition("-")[2]
        return int(tail) if tail.isdigit() else 0


class ComposeProject:
    """Runs docker commands for the compose file of a folder.

    Args:
        folder: where compose.yaml lies, and .env if there is one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def compose(self, *arguments: str) -> str:
        """Output of `docker compose ...`.

        Raises:
            ComposeFailed: it failed, or took too long.
        """
        return await self.docker("compose", *arguments)

    async def docker(self, *arguments: str) -> str:
        """Output of `docker ...`.

        Raises:
            ComposeFailed: it failed, took too long, or there is no docker.
        """
        shown = " ".join(("docker", *arguments))
        try:
            process = await asyncio.create_subprocess_exec(
                "docker",
                *arguments,
                cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:  # no docker, or no such folder
            raise ComposeFailed(shown, str(error)) from error
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                out, err = await process.communicate()
        except TimeoutError:
            raise ComposeFailed(shown, f"took over {COMMAND_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            tail = err.decode(errors="replace").strip().splitlines()[-ERROR_LINES:]
            raise ComposeFailed(shown, "; ".join(tail) or f"exit code {process.returncode}")
        return out.decode(errors="replace")

    async def containers(self, service: str) -> list[Container]:
        """Every container of a service, ended ones too, the oldest first.

        Raises:
            ComposeFailed: docker did, or said what we cannot read.
        """
        text = await self.compose("ps", "--all", "--no-trunc", "--format", "json", service)
        try:
            found = [
                msgspec.json.decode(line, type=Container)
                for line in text.splitlines()
                if line.strip()
            ]
        except msgspec.DecodeError as error:
            raise ComposeFailed("docker compose ps", f"unknown format: {error}") from error
        return sorted(found, key=lambda container: (container.number, container.id))

    async def bus_url(self) -> str:
        """The address of the project's nats-server, for a program on the same host.

        Raises:
            ComposeFailed: it does not run, or cannot be reached from here.
        """
        text = await self.compose("exec", "--no-TTY", "nats", "cat", _OPERATOR_URL)
        url = urlsplit(text.strip().split(",")[0])
        (server,) = await self.containers("nats")
        addresses = (await self.docker("inspect", "--format", _ADDRESS, server.id)).split()
        if not addresses:
            raise ComposeFailed("docker inspect", "nats is in no network; set NATS_URL")
        user, _, _ = url.netloc.rpartition("@")
        return f"{url.scheme}://{user}@{addresses[0]}:{url.port}"


class ComposeInstances:
    """Adds containers to a service and takes them away; see rondo.scaling.driver.Driver.

    Docker starts one again that dies unasked (`restart: unless-stopped`), as the same instance.
    """

    def __init__(self, project: ComposeProject, service: str) -> None:
        self._project = project
        self._service = service
        self._running: dict[str, Container] = {}

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """Those that ran when docker was last asked, in the order in which they were made."""
        return tuple(self._running)

    async def refresh(self) -> None:
        """Asks docker what runs; others may have changed it.

        Raises:
            ComposeFailed: docker did.
        """
        found = await self._project.containers(self._service)
        self._running = {c.instance_id: c for c in found if c.state not in ENDED}

    async def start(self) -> str:
        """One container more."""
        await self.refresh()
        before = self.instance_ids
        # Compose would count ended ones, and start them again.
        await self._project.compose("rm", "--force", self._service)
        scale = f"{self._service}={len(before) + 1}"
        options = ("--detach", "--no-recreate", "--no-deps", "--no-build", "--scale", scale)
        await self._project.compose("up", *options, self._service)
        await self.refresh()
        added = [name for name in self.instance_ids if name not in before]
        if not added:
            raise ComposeFailed(f"docker compose up --scale {scale}", "added no container")
        return added[-1]

    async def stop(self, instance_id: str) -> None:
        """Stops a container, within its own grace period, and removes it."""
        await self.refresh()
        container = self._running.get(instance_id)
        if container is None:  # somebody else did
            return
        await self._project.docker("stop", container.id)
        await self._project.docker("rm", container.id)
        self._running.pop(instance_id, None)
