"""What a streamed token costs the bus: a cluster of real programs, and nats-server's own count."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from rondo.errors import PeerError
from rondo.local.model_folder import find_model
from rondo.local.nats_server import NatsServer
from rondo.wire.messages import StepReport, TokenFrame, TurnBegan, TurnEnded
from rondo_bench.control.cluster import PROFILE
from rondo_bench.load.client import LoadClient, Target
from rondo_bench.load.prompts import BodyShape
from rondo_bench.local_cluster import local_cluster
from rondo_bench.sim.records import Arrival
from rondo_bench.streaming.others import free_port

WARM_UP_REQUESTS = 4


class NotServed(PeerError):
    """A request did not complete, so counts mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusCost:
    """Of serving, admission and all: every message that any program sent, counted once.

    `frames` are engine steps that gave a gateway tokens; with one gateway, steps. `reports` are all
    that instances told the coordinator: of steps, of turns, and that they live.
    """

    requests: int
    tokens: int
    frames: int
    reports: int
    messages: int
    bytes: int

    @property
    def per_step(self) -> float:
        """Messages that instances send, for each engine step and gateway."""
        return (self.frames + self.reports) / self.frames

    @property
    def per_request(self) -> float:
        """All others, for each request: its admission, its prompt, and what observers are told."""
        return (self.messages - self.frames - self.reports) / self.requests


class _Observer:
    """Counts what goes over the bus."""

    def __init__(self) -> None:
        self.frames = self.reports = 0

    def take(self, incoming: Incoming) -> None:
        """One message."""
        self.frames += isinstance(incoming.message, TokenFrame)
        self.reports += isinstance(incoming.message, StepReport | TurnBegan | TurnEnded)


async def bus_cost(num_instances: int, num_streams: int, output_tokens: int) -> BusCost:
    """Serves one batch of streams over HTTP.

    Raises:
        NotServed: a request did not complete.
    """
    monitor = free_port()
    model = find_model(None, weights=False)
    with tempfile.TemporaryDirectory(prefix="rondo-bus-cost-") as scratch:
        server = NatsServer(Path(scratch) / "nats", config=f'http: "127.0.0.1:{monitor}"')
        await server.start()
        bus = NatsBus(server.url, name="observer")
        try:
            profile = Path(scratch) / "profile.json"
            profile.write_bytes(msgspec.json.encode(PROFILE))
            options = ["--engine", "emulated", "--workers", str(num_instances)]
            options += ["--model", str(model), "--profile", str(profile)]
            env = {"NATS_URL": server.url, "RONDO_LOG_LEVEL": "WARNING"}
            async with local_cluster(Path(scratch) / "run", options, env) as url:
                await bus.connect()
                monitored = f"http://127.0.0.1:{monitor}/varz"
                return await _count(bus, url, model.name, monitored, num_streams, output_tokens)
        finally:
            await bus.close()
            await server.stop()


async def _count(
    bus: NatsBus, url: str, model: str, monitor: str, num_streams: int, output_tokens: int
) -> BusCost:
    observer = _Observer()
    arrivals = [
        Arrival(request_id=f"r{i}", at_s=0.0, prompt_tokens=32, output_tokens=output_tokens)
        for i in range(num_streams)
    ]
    async with LoadClient(Target(base_url=url, shape=BodyShape(model=model))) as client:
        await client.closed_loop(arrivals[:WARM_UP_REQUESTS], WARM_UP_REQUESTS)
        await bus.subscribe(subjects.all_tokens(), observer.take)
        await bus.subscribe(subjects.all_reports(), observer.take)
        before = await _traffic(monitor)
        outcomes = await client.closed_loop(arrivals, num_streams)
        after = await _traffic(monitor)
        await bus.flush()
    if failed := [one for one in outcomes if not one.completed]:
        raise NotServed(f"{len(failed)} of {num_streams}: {failed[0].error}")
    return BusCost(
        requests=len(outcomes),
        tokens=sum(one.num_tokens for one in outcomes),
        frames=observer.frames,
        reports=observer.reports,
        messages=after[0] - before[0],
        bytes=after[1] - before[1],
    )


async def _traffic(monitor: str) -> tuple[int, int]:
    """Messages and bytes into nats-server so far."""
    async with aiohttp.ClientSession() as session, session.get(monitor) as response:
        seen = await response.json()
    return seen["in_msgs"], seen["in_bytes"]
