"""A real Prometheus over a local cluster: Debian's `prometheus` package, or any other on PATH."""

from __future__ import annotations

import math
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.cluster import Cluster, eventually

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
CONFIG = COMPOSE / "prometheus" / "prometheus.yaml"
ALERTS = sorted((COMPOSE / "alerts").glob("*.yaml"))


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt install prometheus)")
    return path


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def get(self, path: str, **params: str) -> Any:
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=20)
        body = reply.json()
        assert body["status"] == "success", f"{params}: {body}"
        return body["data"]

    def values(self, query: str) -> list[float]:
        """What a query returns now, numbers only."""
        found = self.get("query", query=query)["result"]
        values = [float(sample["value"][1]) for sample in found]
        return [value for value in values if math.isfinite(value)]


@contextmanager
def scraping(cluster: Cluster, folder: Path) -> Iterator[Prometheus]:
    """The configuration of deploy/compose, with this cluster's addresses in place of Docker's."""
    binary = tool("prometheus")
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        targets = [f"127.0.0.1:{port}" for port in ports(cluster, job["job_name"])]
        job["static_configs"] = [{"targets": targets}]
    config["rule_files"] = [str(path) for path in ALERTS]
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [
        binary,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://{address}"
            eventually(lambda: _ready(url), "prometheus is ready", 30)
            yield Prometheus(url)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def ports(cluster: Cluster, program: str) -> list[int]:
    """The HTTP ports of a cluster's programs of one kind."""
    names = [path.stem for path in sorted(cluster.run_dir.glob(f"{program}*.port"))]
    assert names, f"no {program} has a port in {cluster.run_dir}"
    return [cluster.port(name) for name in names]


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False
