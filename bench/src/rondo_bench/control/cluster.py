"""A control plane of real programs: nats-server, coordinator, gateway; instances emulated."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.errors import PeerError
from rondo.local.model_folder import find_model
from rondo.local.nats_server import NatsServer
from rondo.local.process import die_with_parent
from rondo.perf.profile import LatencyProfile
from rondo.service.outbox import Outbox
from rondo.wire.messages import MacroRecord
from rondo_bench.control.instance import HEARTBEAT_S, BusInstance
from rondo_bench.streaming.measure import program_env
from rondo_bench.streaming.others import free_port, until_ready

#: Steps of a GPU: 5 ms for a short prompt, 20 ms for a token.
PROFILE = LatencyProfile(
    name="control-bench",
    source="made up: 5 ms prefill, 20 ms decode",
    prefill_floor_ms=(5.0, 0.0),
    prefill_line_ms=(0.0, 0.0),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(20.0, 0.0, 0.0),
    num_blocks=4096,
)
READY_TIMEOUT_S = 60.0
POLL_S = 0.1


class ClusterNotReady(PeerError):
    """Not all instances joined in time."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through the bus so far, into it and out of it."""

    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Control:
    """A cluster that is ready. The pids are of the programs measured."""

    bus: NatsBus
    model: str
    macro_id: str
    coordinator_pid: int
    gateway_pid: int
    nats_pid: int
    monitor: str

    async def traffic(self) -> Traffic:
        """By nats-server's own count: a message counts once, however many get it."""
        async with aiohttp.ClientSession() as session, session.get(self.monitor) as response:
            seen = await response.json()
        return Traffic(seen["in_msgs"], seen["in_bytes"])


@asynccontextmanager
async def control_plane(num_instances: int) -> AsyncIterator[Control]:
    """Starts everything and waits until every instance has joined.

    Raises:
        ClusterNotReady: one did not.
    """
    model, monitor = find_model(None, weights=False), free_port()
    macro_id = subjects.macro_id_of(model.name)
    with tempfile.TemporaryDirectory(prefix="rondo-control-") as scratch:
        server = NatsServer(Path(scratch) / "nats", config=f'http: "127.0.0.1:{monitor}"')
        await server.start()
        try:
            assert server.pid is not None  # it was just asked for something
            async with (
                _programs(server.url, model) as (coordinator, gateway, ready_url),
                _instances(server.url, model.name, num_instances) as bus,
            ):
                await _joined(bus, macro_id, num_instances)
                await until_ready(gateway, ready_url)
                varz = f"http://127.0.0.1:{monitor}/varz"
                yield Control(bus, model.name, macro_id, coordinator, gateway, server.pid, varz)
        finally:
            await server.stop()


@asynccontextmanager
async def _programs(nats_url: str, model: Path) -> AsyncIterator[tuple[int, int, str]]:
    """Coordinator and gateway: their process ids, and where the latter says that it is ready."""
    port = free_port()
    env = program_env(
        NATS_URL=nats_url,
        RONDO_MODELS=str(model),
        RONDO_LOG_LEVEL="WARNING",
        RONDO_MACRO_UPPER="1024",  # one macro-instance, the harder case
    )
    programs = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", name), env=env | more, preexec_fn=die_with_parent
        )
        for name, more in (
            ("rondo_coordinator", {}),
            ("rondo_gateway", {"RONDO_HTTP_PORT": str(port)}),
        )
    ]
    try:
        yield programs[0].pid, programs[1].pid, f"http://127.0.0.1:{port}/readyz"
    finally:
        for program in programs:
            if program.returncode is None:
                program.terminate()
                await program.wait()


@asynccontextmanager
async def _instances(nats_url: str, model: str, count: int) -> AsyncIterator[NatsBus]:
    """All instances, on one connection."""
    bus = NatsBus(nats_url, name="instances")
    outbox = Outbox(bus)
    started: list[BusInstance] = []
    try:
        await bus.connect()
        for number in range(count):
            delay_s = HEARTBEAT_S * number / count
            started.append(BusInstance(f"w{number}", model, PROFILE, outbox.send, delay_s))
            await started[-1].start(bus)
        yield bus
    finally:
        for one in started:
            one.stop()
        await outbox.close()
        await bus.close()


async def _joined(bus: NatsBus, macro_id: str, num_instances: int) -> None:
    macros = await bus.key_value(subjects.MACROS_BUCKET)
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        update = await macros.get(macro_id)
        record = update.value if update else None
        if isinstance(record, MacroRecord) and len(record.instance_ids) == num_instances:
            return
        await asyncio.sleep(POLL_S)
    raise ClusterNotReady(f"{num_instances} instances did not join in {READY_TIMEOUT_S:g} s")
