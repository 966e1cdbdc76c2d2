"""The cluster that a chaos run hurts: its own bus, a relay before it, `rondo up` behind that."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from rondo.errors import BusUnavailable, RondoError
from rondo.local.nats_server import NatsServer
from rondo.local.run_dir import read_state
from rondo.local.status import cluster_status
from rondo.perf.profile import LatencyProfile
from rondo.wire.messages import Event, StatusReply
from rondo_bench.chaos.faults import Targets
from rondo_bench.chaos.noise import Noise
from rondo_bench.chaos.relay import Relay
from rondo_bench.local_cluster import local_cluster

#: Emulated instances: answers take one to three seconds, long enough to be hit.
PROFILE = LatencyProfile(
    name="chaos",
    source="made up: 10 ms prefill floor, 12 ms decode",
    prefill_floor_ms=(10.0, 0.0),
    prefill_line_ms=(1.0, 0.02),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(12.0, 0.02, 0.0),
    num_blocks=4096,
)
#: In bf16 the same prompt computed in another batch may round otherwise.
TORCH_ENV = {"RONDO_DTYPE": "float32"}
BUS_RESTART_PAUSE_S = 0.5
POLL_S = 0.25
#: An idle instance reports once a second. One that died is a member for a while yet.
FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What to start; None leaves it to `rondo up`."""

    engine: str
    workers: int
    coordinators: int | None
    gateways: int | None

    def command_line(self, profile: Path) -> list[str]:
        """Options of `rondo up`."""
        line = ["--engine", self.engine, "--workers", str(self.workers)]
        for name in ("coordinators", "gateways"):
            if (count := getattr(self, name)) is not None:
                line += [f"--{name}", str(count)]
        return [*line, "--profile", str(profile)] if self.engine == "emulated" else line


@dataclass(slots=True)
class ChaosCluster:
    """A running cluster.

    Attributes:
        url: of the API. nats_url: of the server itself, past the relay.
        members: how often instances joined, and left for which reason, as the owners tell it.
    """

    run_dir: Path
    url: str
    nats_url: str
    relay: Relay
    noise: Noise
    members: Counter[str]

    @property
    def targets(self) -> Targets:
        """What faults may hit."""
        parents = (read_state(self.run_dir).pid, os.getpid())
        return Targets(parents, self.nats_url, self.relay, self.noise)

    async def whole(self, num_workers: int, timeout_s: float) -> str:
        """Waits until all is as at the start.

        Returns:
            What is still missing, or left behind, after `timeout_s`; empty when nothing is.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            problem = await self._problem(num_workers)
            if not problem or asyncio.get_running_loop().time() > deadline_s:
                return problem
            await asyncio.sleep(POLL_S)

    async def _problem(self, num_workers: int) -> str:
        try:
            replies = await cluster_status(self.nats_url)
        except (RondoError, OSError) as error:
            return str(error)
        return problem_of(replies, num_workers)


def problem_of(replies: Sequence[StatusReply], num_workers: int) -> str:
    """What an idle cluster lacks, or what was left behind in it; empty when nothing is."""
    if len(replies) != 1:
        return f"{len(replies)} owners"
    [macro] = replies
    if len(macro.instances) != num_workers:
        return f"{len(macro.instances)} of {num_workers} instances"
    if macro.num_pending:
        return f"{macro.num_pending} requests pending"
    for instance in macro.instances:
        if instance.report_age_s > FRESH_S:
            return f"{instance.instance_id}: silent for {instance.report_age_s:.1f} s"
        used = instance.kv.used_blocks if instance.kv else 0
        if instance.num_running or instance.num_waiting or used:
            counts = f"{instance.num_running} running, {instance.num_waiting} waiting"
            return f"{instance.instance_id}: {counts}, {used} KV blocks used"
    return ""


@asynccontextmanager
async def chaos_cluster(
    scratch: Path, options: ClusterOptions, seed: int
) -> AsyncIterator[ChaosCluster]:
    """Starts everything, and stops it afterwards."""
    profile = scratch / "profile.json"
    profile.write_bytes(msgspec.json.encode(PROFILE))
    server = NatsServer(scratch / "nats")
    await server.start()
    host, _, port = server.url.rpartition("//")[2].rpartition(":")
    relay = Relay(host, int(port))
    await relay.start()
    env = {"NATS_URL": relay.url, **(TORCH_ENV if options.engine == "torch" else {})}
    noise = Noise(host, int(port), seed)
    tasks = [asyncio.create_task(_keep(server)), asyncio.create_task(noise.listen())]
    observer = NatsBus(server.url, name="rondo-chaos")
    try:
        await observer.connect()
        members: Counter[str] = Counter()
        await observer.subscribe(subjects.event("instance"), lambda i: _count(members, i))
        run_dir = scratch / "run"
        async with local_cluster(run_dir, options.command_line(profile), env) as url:
            yield ChaosCluster(run_dir, url, server.url, relay, noise, members)
    finally:
        await observer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await relay.stop()
        await server.stop()


def _count(members: Counter[str], incoming: Incoming) -> None:
    event = incoming.message
    if isinstance(event, Event):
        members[f"left: {event.fields['left']}" if "left" in event.fields else "joined"] += 1


async def _keep(server: NatsServer) -> None:
    """Starts the bus again when it was killed, as whoever runs one would."""
    while True:
        await server.wait()
        await asyncio.sleep(BUS_RESTART_PAUSE_S)
        try:
            await server.start()
        except BusUnavailable:  # its port is still taken; the next round tries again
            await asyncio.sleep(BUS_RESTART_PAUSE_S)
