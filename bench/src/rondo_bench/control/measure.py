"""What is measured of a control plane with emulated instances: admissions, and idle cost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rondo.bus import subjects
from rondo.bus.protocol import Incoming
from rondo.errors import PeerError
from rondo.metrics.lifecycle import percentile
from rondo.types import Sampling, Slo
from rondo.wire.codec import pack_tokens
from rondo.wire.messages import Admitted, Run, Submit, TokenFrame
from rondo_bench.control.cluster import Control
from rondo_bench.streaming.cpu import cpu_s

GATEWAY_ID = "bench"
PROMPT_TOKENS = 128
SLO = Slo(ttft_s=5.0, tpot_s=0.1)
ADMISSION_TIMEOUT_S = 10.0
STREAM_TIMEOUT_S = 60.0
_PROMPT = pack_tokens([7] * PROMPT_TOKENS)


class NotAdmitted(PeerError):
    """The coordinator refused what this cluster must take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """Seconds from Submit to Admitted, seen where a gateway sees them."""

    per_s: float
    p50_s: float
    p99_s: float
    coordinator_cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Shares of a core over a time in which nothing was asked."""

    coordinator: float
    gateway: float
    nats: float
    messages_per_s: float


class BenchGateway:
    """Submits and takes tokens as a gateway does, without HTTP."""

    def __init__(self, control: Control, name: str = GATEWAY_ID) -> None:
        self._control = control
        self.name = name
        self._number = 0
        self._open: dict[str, asyncio.Event] = {}
        self.latencies_s: list[float] = []

    async def start(self) -> None:
        """Subscribes to its tokens."""
        await self._control.bus.subscribe(subjects.tokens(self.name), self._on_frame)

    async def request(self, output_tokens: int) -> None:
        """One request from its submission to its last token.

        Raises:
            NotAdmitted: it was refused.
        """
        self._number += 1
        request_id = f"{self.name}-{self._number}"
        bus, done = self._control.bus, asyncio.Event()
        self._open[request_id] = done
        submit = Submit(
            request_id=request_id,
            gateway_id=self.name,
            prompt_tokens=PROMPT_TOKENS,
            max_tokens=output_tokens,
            predicted_tokens=output_tokens,
            slo=SLO,
            age_s=0.0,
        )
        began_s = time.monotonic()
        subject = subjects.submit(self._control.macro_id)
        reply = await bus.request(subject, submit, ADMISSION_TIMEOUT_S)
        self.latencies_s.append(time.monotonic() - began_s)
        if not isinstance(reply, Admitted):
            raise NotAdmitted(f"{reply}")
        run = Run(
            request_id=request_id,
            gateway_id=self.name,
            prompt=_PROMPT,
            max_tokens=output_tokens,
            predicted_tokens=output_tokens,
            sampling=Sampling(temperature=0.0),
            slo=SLO,
            age_s=time.monotonic() - began_s,
            ignore_eos=True,
        )
        await bus.publish(subjects.run(reply.instance_id), run)
        async with asyncio.timeout(STREAM_TIMEOUT_S):
            await done.wait()

    def _on_frame(self, incoming: Incoming) -> None:
        frame = incoming.message
        if not isinstance(frame, TokenFrame):
            return
        for delta in frame.deltas:
            if delta.finish and (done := self._open.pop(delta.request_id, None)):
                done.set()


async def open_loop(control: Control, rate: float, duration_s: float, seed: int) -> Admissions:
    """Poisson arrivals of short requests, which are admitted at once where nothing is amiss."""
    gateway, rng = BenchGateway(control, f"open{seed}"), random.Random(seed)
    await gateway.start()
    at_s = began_s = time.monotonic()
    used_s = cpu_s([control.coordinator_pid])
    async with asyncio.TaskGroup() as group:
        while (at_s := at_s + rng.expovariate(rate)) < began_s + duration_s:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            group.create_task(gateway.request(1))
    return _admissions(control, gateway.latencies_s, time.monotonic() - began_s, used_s)


async def closed_loop(control: Control, clients: int, duration_s: float, seed: int) -> Admissions:
    """As many as go: each client asks again when its request has ended."""
    gateway = BenchGateway(control, f"closed{seed}")
    await gateway.start()
    began_s, used_s = time.monotonic(), cpu_s([control.coordinator_pid])

    async def client() -> None:
        while time.monotonic() < began_s + duration_s:
            await gateway.request(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return _admissions(control, gateway.latencies_s, time.monotonic() - began_s, used_s)


async def idle(control: Control, duration_s: float) -> Idle:
    """Nothing is asked; instances say once a second that they live."""
    pids = (control.coordinator_pid, control.gateway_pid, control.nats_pid)
    before, seen, began_s = [cpu_s([p]) for p in pids], await control.traffic(), time.monotonic()
    await asyncio.sleep(duration_s)
    wall_s = time.monotonic() - began_s
    shares = [(cpu_s([pid]) - b) / wall_s for pid, b in zip(pids, before, strict=True)]
    messages = (await control.traffic()).messages - seen.messages
    return Idle(
        coordinator=shares[0],
        gateway=shares[1],
        nats=shares[2],
        messages_per_s=messages / wall_s,
    )


def _admissions(
    control: Control, latencies_s: Sequence[float], wall_s: float, used_s: float
) -> Admissions:
    cpu = cpu_s([control.coordinator_pid]) - used_s
    return Admissions(
        per_s=len(latencies_s) / wall_s,
        p50_s=percentile(latencies_s, 0.5),
        p99_s=percentile(latencies_s, 0.99),
        coordinator_cpu_us=cpu / len(latencies_s) * 1e6,
    )
