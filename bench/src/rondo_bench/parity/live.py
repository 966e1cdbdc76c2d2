"""The live side: a cluster as `rondo up` starts it, with emulated engines, and its bus measured."""

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

from rondo.bus import subjects
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

NUM_PINGS = 50
PING_PAUSE_S = 0.01
PING_TIMEOUT_S = 2.0
#: Requests that no figure counts: connections, caches and imports of first use.
WARM_UP_REQUESTS = 8
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What the clients saw, and how long a message takes on the bus of the idle cluster."""

    requests: list[Served]
    hop_s: float


async def run_live(setup: Setup, arrivals: Sequence[Arrival], slo: Slo, seed: int) -> LiveRun:
    """Starts a cluster, offers it the arrivals, and stops it.

    Raises:
        ClusterFailed: it did not start. AnswerWrong: an answer was not as asked for.
    """
    with tempfile.TemporaryDirectory(prefix="rondo-parity-") as scratch:
        model = long_model(Path(scratch) / "parity", setup.max_model_len)
        options = ["--engine", "emulated", "--workers", str(setup.num_instances)]
        options += ["--model", str(model), "--profile", setup.profile_name]
        env = {"RONDO_POLICY": setup.policy, "RONDO_LOG_LEVEL": "WARNING", "NATS_URL": ""}
        run_dir = Path(scratch) / "run"
        async with local_cluster(run_dir, options, env) as url:
            hop_s = await measure_hop(read_state(run_dir).nats_url)
            warm = [
                Arrival(request_id=f"warm{i}", at_s=0.1 * i, prompt_tokens=64, output_tokens=4)
                for i in range(WARM_UP_REQUESTS)
            ]
            await offer(url, model.name, warm, slo, seed)
            await asyncio.sleep(SETTLE_S)
            return LiveRun(await offer(url, model.name, arrivals, slo, seed), hop_s)


def long_model(folder: Path, max_model_len: int) -> Path:
    """The model that ships without its weights, with another longest context."""
    shipped = find_model(None, weights=False)
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = max_model_len
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def measure_hop(nats_url: str) -> float:
    """Seconds of one message: half the median time in which a coordinator tells its state."""
    bus = await connect(nats_url)
    spans: list[float] = []
    try:
        for _ in range(NUM_PINGS):
            sent_s = time.monotonic()
            await bus.request(subjects.STATUS, StatusRequest(), PING_TIMEOUT_S)
            spans.append(time.monotonic() - sent_s)
            await asyncio.sleep(PING_PAUSE_S)
    finally:
        await bus.close()
    return median(spans) / 2
