"""The live side: a cluster as `rondo up` starts it, with emulated engines."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp

from rondo.bus import subjects
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.local.model_folder import find_model
from rondo.local.run_dir import read_state
from rondo.local.status import connect
from rondo.types import Slo
from rondo.wire.messages import StatusRequest
from rondo_bench.local_cluster import local_cluster
from rondo_bench.parity.cases import Setup
from rondo_bench.parity.client import offer
from rondo_bench.parity.compare import Served
from rondo_bench.sim.records import Arrival

PING_PAUSE_S = 0.2
PING_TIMEOUT_S = 5.0
#: Requests that no figure counts: connections, caches and imports of first use.
WARM_UP_REQUESTS = 8
SETTLE_S = 1.0


class NoPing(PeerError):
    """The way to the engines could not be measured."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What the clients saw; meanwhile, medians of a message on the bus and of a bare request."""

    requests: list[Served]
    hop_s: float
    http_s: float


async def run_live(setup: Setup, arrivals: Sequence[Arrival], slo: Slo, seed: int) -> LiveRun:
    """Starts a cluster, offers it the arrivals, and stops it.

    Raises:
        ClusterFailed: it did not start. AnswerWrong: an answer was not as asked for. NoPing.
    """
    with tempfile.TemporaryDirectory(prefix="rondo-parity-") as scratch:
        model = long_model(Path(scratch) / "parity", setup.max_model_len)
        options = ["--engine", "emulated", "--workers", str(setup.num_instances)]
        options += ["--model", str(model), "--profile", setup.profile_name]
        env = {"RONDO_POLICY": setup.policy, "RONDO_LOG_LEVEL": "WARNING", "NATS_URL": ""}
        run_dir = Path(scratch) / "run"
        async with local_cluster(run_dir, options, env) as url:
            pings = Pings(url, read_state(run_dir).nats_url)
            warm = [
                Arrival(request_id=f"warm{i}", at_s=0.1 * i, prompt_tokens=64, output_tokens=4)
                for i in range(WARM_UP_REQUESTS)
            ]
            await offer(url, model.name, warm, slo, seed)
            await asyncio.sleep(SETTLE_S)
            task = asyncio.create_task(pings.run())
            try:
                requests = await offer(url, model.name, arrivals, slo, seed)
            finally:
                await end_task(task)
            return LiveRun(requests, *pings.medians())


def long_model(folder: Path, max_model_len: int) -> Path:
    """The model that ships without its weights, with another longest context."""
    shipped = find_model(None, weights=False)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = max_model_len
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Pings:
    """Measures the way to the engines while others use it: none of these requests gets there.

    `status_s` are round trips of a question to the coordinator, two messages on the bus; `http_s`
    are requests that the gateway answers by itself.
    """

    def __init__(self, url: str, nats_url: str) -> None:
        self.status_s: list[float] = []
        self.http_s: list[float] = []
        self._url = f"{url}/v1/models"
        self._nats_url = nats_url

    async def run(self) -> None:
        """Goes on until cancelled."""
        bus = await connect(self._nats_url)
        try:
            while True:
                sent_s = time.monotonic()
                await bus.request(subjects.STATUS, StatusRequest(), PING_TIMEOUT_S)
                self.status_s.append(time.monotonic() - sent_s)
                self.http_s.append(await self._get())
                await asyncio.sleep(PING_PAUSE_S)
        finally:
            await bus.close()

    def medians(self) -> tuple[float, float]:
        """Seconds of a message on the bus, and of an HTTP request.

        Raises:
            NoPing: not one was answered.
        """
        if not self.http_s:
            raise NoPing("coordinator and gateway answered no question during the run")
        return median(self.status_s) / 2, median(self.http_s)

    async def _get(self) -> float:
        """A connection of its own, as a client that comes for the first time has."""
        sent_s = time.monotonic()
        async with aiohttp.ClientSession() as session, session.get(self._url) as response:
            await response.read()
        return time.monotonic() - sent_s
