"""A compose project under test: commands, containers, and what docker knows of them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rondo.local.status import as_json, cluster_status

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
MODEL = "rondo-tiny"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def docker(*arguments: str, env: dict[str, str] | None = None, timeout_s: float = 180) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        cwd=FOLDER,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stderr[-3000:]}"
    return done.stdout


class Project:
    """deploy/compose with its defaults, under a name and on a port of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prometheus_port = free_port()
        self.healthy_after_s = 0.0
        self.crowd = 1.0
        """Processes that wanted each core before the cluster started."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RONDO_")}
        self.env = {
            **clean,
            "RONDO_PROJECT": name,
            "RONDO_PORT": str(self.port),
            "RONDO_PROMETHEUS_PORT": str(self.prometheus_port),
        }

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        plain = ("--env-file", os.devnull)  # whatever .env says on this machine
        return docker("compose", *plain, *arguments, env=self.env, timeout_s=timeout_s)

    def up(self) -> None:
        cores = os.cpu_count() or 1
        self.crowd = max(1.0, os.getloadavg()[0] / cores)
        start_s = time.monotonic()
        self.compose("up", "--detach", "--wait", "--no-build")
        self.healthy_after_s = time.monotonic() - start_s

    def scale(self, **services: int) -> None:
        """As `docker compose up --scale` while everything runs; returns when it is healthy."""
        options = [text for name, num in services.items() for text in ("--scale", f"{name}={num}")]
        self.compose("up", "--detach", "--wait", "--no-build", "--no-recreate", *options)

    def containers(self, service: str) -> list[str]:
        """Ids of the running ones, the oldest first."""
        return self.compose("ps", "--quiet", service).split()[::-1]

    def inspect(self, container: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return found[0]

    def health(self, container: str) -> str:
        return str(self.inspect(container)["State"]["Health"]["Status"])

    def status(self) -> list[dict[str, Any]]:
        """What the owner of the macro-instance knows of each instance."""
        text = self.compose("exec", "--no-TTY", "nats", "cat", "/etc/rondo/secrets/operator_url")
        (container,) = self.containers("nats")
        networks = self.inspect(container)["NetworkSettings"]["Networks"].values()
        address = next(network["IPAddress"] for network in networks)
        url = text.strip().replace("@nats:", f"@{address}:")
        macros = json.loads(as_json(asyncio.run(cluster_status(url))))["macros"]
        return [instance for macro in macros for instance in macro["instances"]]

    def save_logs(self) -> Path:
        """What all containers said, for whoever looks into a failure."""
        text = self.compose("ps", "--all") + self.compose("logs", "--no-color", "--timestamps")
        path = Path(tempfile.gettempdir()) / f"{self.name}.log"
        path.write_text(text)
        return path

    def leftovers(self) -> list[str]:
        """Containers, networks and volumes of the project that are still there."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.name}")
        return [
            *docker("ps", "--all", *mine).split(),
            *docker("network", "ls", *mine).split(),
            *docker("volume", "ls", *mine).split(),
        ]
