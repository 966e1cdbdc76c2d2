"""A compose project under test: commands, containers, and what docker knows of them."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from rondo.local.status import as_json, cluster_status

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
MODEL = "rondo-tiny"
#: What the images of deploy/compose start from, or are.
BASE_IMAGES = ("python:3.11-slim", "nats:2-alpine")
PULL_TIMEOUT_S = 300.0


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
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stderr[-3000:]}"
    return done.stdout


def why_no_image(image: str) -> str | None:
    """What keeps an image from being here, if anything does: it is pulled where it is not."""
    for command, timeout_s in ((["image", "inspect"], 60.0), (["pull", "--quiet"], PULL_TIMEOUT_S)):
        try:
            docker(*command, image, timeout_s=timeout_s)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        else:
            return None
    return problem


class Project:
    """deploy/compose with its defaults, under a name and on a port of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.prometheus_port = free_port()
        self.built_after_s = 0.0
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

    def build(self) -> None:
        """All images but those of workers with a real engine."""
        start_s = time.monotonic()
        self.compose("--profile", "monitoring", "build", "--quiet", timeout_s=1200)
        self.built_after_s = time.monotonic() - start_s

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
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
        return docker("ps", "--quiet", "--no-trunc", *filters).split()[::-1]

    def inspect(self, container: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return found[0]

    def health(self, container: str) -> str:
        return str(self.inspect(container)["State"]["Health"]["Status"])

    def address(self, container: str) -> str:
        """Where this machine reaches it."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return str(next(network["IPAddress"] for network in networks))

    @functools.cached_property
    def bus_url(self) -> str:
        """The address of nats, which is never replaced, as its operator."""
        (nats,) = self.containers("nats")
        url = docker("exec", nats, "cat", "/etc/rondo/secrets/operator_url").strip()
        return url.replace("@nats:", f"@{self.address(nats)}:")

    def status(self) -> list[dict[str, Any]]:
        """What the owner of the macro-instance knows of each instance."""
        macros = json.loads(as_json(asyncio.run(cluster_status(self.bus_url))))["macros"]
        return [instance for macro in macros for instance in macro["instances"]]

    def metrics(self, container: str) -> dict[str, float]:
        """What a program of ours shows Prometheus: values by name and labels."""
        with urllib.request.urlopen(
            f"http://{self.address(container)}:8000/metrics", timeout=10
        ) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

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
