"""The gateway's side: one process pinned to a core, fed over a real nats-server."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rondo.bus.nats import NatsBus
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.local.model_folder import find_model
from rondo.local.nats_server import NatsServer
from rondo_bench.parity.live import long_model
from rondo_bench.streaming.cpu import cpu_s, pinned
from rondo_bench.streaming.feeder import MAX_MODEL_LEN, Feeder
from rondo_bench.streaming.measure import MARK, MARK_ID, Load, Round, body, program_env
from rondo_bench.streaming.sink import Counts, stream_all

START_TIMEOUT_S = 60.0
POLL_S = 0.02


class GatewayFailed(PeerError):
    """It did not start."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that waits for requests."""

    url: str
    pid: int
    model: str
    bus: NatsBus
    nats_pid: int


@asynccontextmanager
async def gateway(core: int, nats_core: int) -> AsyncIterator[Gateway]:
    """A nats-server and a gateway while the block lasts.

    Raises:
        GatewayFailed: it ended, or did not listen in time.
    """
    with tempfile.TemporaryDirectory(prefix="rondo-streaming-") as scratch:
        model = long_model(Path(scratch) / find_model(None, weights=False).name, MAX_MODEL_LEN)
        server = NatsServer(Path(scratch) / "nats", preexec_fn=pinned(nats_core))
        await server.start()
        bus = NatsBus(server.url, name="feeder")
        state = Path(scratch) / "state.json"
        env = program_env(
            NATS_URL=server.url,
            RONDO_MODELS=str(model),
            RONDO_STATE_FILE=str(state),
            RONDO_LOG_LEVEL="WARNING",
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rondo_gateway"), env=env, preexec_fn=pinned(core)
        )
        try:
            await bus.connect()
            port = await _port(state, process)
            assert server.pid is not None  # it was just asked for something
            yield Gateway(f"http://127.0.0.1:{port}", process.pid, model.name, bus, server.pid)
        finally:
            await bus.close()
            if process.returncode is None:
                process.terminate()
                await process.wait()
            await server.stop()


async def run_gateway(gateway: Gateway, load: Load) -> Round:
    """One round; CPU is that of the gateway's process from the first step to the last event."""
    total = Counts()
    feeder = Feeder(gateway.bus, gateway.model, MARK_ID, lambda: total.marks, load.tokens_a_step)
    await feeder.start()
    await asyncio.sleep(0.2)  # the gateway learns of the records
    bodies = [body(gateway.model, load)] * load.num_streams
    path = "/v1/chat/completions" if load.chat else "/v1/completions"
    cpu_began_s = cpu_s([gateway.pid])
    streams = asyncio.create_task(
        stream_all(gateway.url, path, bodies, total=total, mark=MARK, on_read=feeder.wake)
    )
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        marks.append((time.monotonic(), cpu_s([gateway.pid])))

    feeding = asyncio.create_task(feeder.feed(load.num_streams, mark))
    try:
        await asyncio.gather(streams, feeding)
        mark()
    finally:
        await end_task(streams, feeding)
        await feeder.stop()
    (began_s, steady_s), (ended_s, all_s) = marks
    return Round(
        num_tokens=total.marks,
        num_events=total.events,
        wall_s=ended_s - began_s,
        cpu_s=all_s - cpu_began_s,
        steady_cpu_s=all_s - steady_s,
    )


async def _port(state: Path, process: asyncio.subprocess.Process) -> int:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.returncode is None:
        await asyncio.sleep(POLL_S)
        if (port := _bound_port(state)) is not None:
            return port
    raise GatewayFailed("the gateway did not listen in time")


def _bound_port(state: Path) -> int | None:
    """What the gateway wrote, if it did."""
    return int(json.loads(state.read_text())["port"]) if state.exists() else None
