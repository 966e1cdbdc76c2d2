"""Plays the coordinator and the worker of one gateway by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo.wire.codec import unpack_tokens
from rondo_gateway.generation import Generation
from tests.support.collect import eventually
from tests.support.generations import Gateway, Result, start_gateway
from tests.support.services import FAST, MACRO, MODEL, SPEC, Tap, stage_on


@dataclass
class Peer:
    """Admits every request to w0 unless told otherwise; sends what the test says."""

    bus: Bus
    gateway: Gateway
    to_worker: Tap
    to_coordinator: Tap
    reply: m.Message | None = None
    next_seq: int = 0
    scripts: list[asyncio.Task[None]] = field(default_factory=list)

    def on_submit(self, incoming: Incoming) -> None:
        self.to_coordinator.on_message(incoming)
        if incoming.respond and self.reply:
            asyncio.ensure_future(incoming.respond(self.reply))

    async def frame(
        self,
        index: int,
        *tokens: int,
        finish: FinishReason | None = None,
        error: str | None = None,
        incarnation: str = "a",
        lost: bool = False,
        seq: int | None = None,
        request_id: str = "r",
    ) -> m.TokenFrame:
        """Sends tokens of a request, or loses them on the way."""
        frame = m.TokenFrame(
            instance_id="w0",
            incarnation=incarnation,
            seq=self.next_seq if seq is None else seq,
            deltas=(m.TokenDelta(request_id, index, tokens, finish, error),),
        )
        self.next_seq = max(self.next_seq, frame.seq + 1)
        if not lost:
            await self.bus.publish(subjects.tokens("g0"), frame)
        return frame

    def script(self, act: Callable[[], Awaitable[object]]) -> None:
        """Runs `act` when the second prompt came: the gateway has resumed its answer."""

        async def later() -> None:
            await self.to_worker.first(m.Run, 2)
            await act()

        self.scripts.append(asyncio.create_task(later()))

    async def resyncs(self, count: int) -> list[int]:
        """Where from the gateway asked again, once it did so often."""
        return [resync.from_index for resync in await self.to_worker.first(m.Resync, count)]

    def cancels(self) -> tuple[int, int]:
        """How many cancels came to the coordinator and to the worker."""
        return len(self.to_coordinator.of(m.Cancel)), len(self.to_worker.of(m.Cancel))

    async def begin(self, *, stops: tuple[str, ...] = ()) -> tuple[Generation, Result]:
        """An answer that was admitted and whose prompt has come."""
        generation = self.gateway.generation("r", [20, 30], 8, stops=stops, ignore_eos=False)
        await generation.start()
        [run] = await self.to_worker.first(m.Run)
        assert unpack_tokens(run.prompt) == [20, 30]
        return generation, Result()

    async def registered(self, incarnation: str | None) -> None:
        """The worker's record, or that it is gone; the gateway knows."""
        bucket = await self.bus.key_value(subjects.INSTANCES_BUCKET)
        there = incarnation is not None
        if incarnation is None:
            await bucket.delete("w0")
        else:
            await bucket.put("w0", _record(incarnation))
        directory = self.gateway.directory
        await eventually(lambda: directory.present("w0") is there, "the gateway knows of w0")


def _record(incarnation: str) -> m.InstanceRecord:
    return m.InstanceRecord(
        instance_id="w0",
        incarnation=incarnation,
        model=MODEL,
        engine="none",
        max_model_len=SPEC.max_model_len,
        block_size=SPEC.block_size,
        num_blocks=SPEC.num_blocks,
        max_running=8,
        max_prefill_tokens=512,
        profile=FAST,
    )


@asynccontextmanager
async def peer_on(kind: str, run_dir: Path, *, max_attempts: int = 1) -> AsyncIterator[Peer]:
    """A gateway, and the peer it talks to; answers are not resumed unless told so."""
    async with stage_on(kind, run_dir) as stage:
        bus = await stage.harness.bus("peer")
        gateway = await start_gateway(
            await stage.harness.bus("g0"),
            stall_s=0.3,
            max_attempts=max_attempts,
            resume_timeout_s=2.0,
        )
        made = Peer(bus, gateway, await stage.tap(subjects.run("w0")), Tap())
        made.reply = m.Admitted(
            request_id="r",
            instance_id="w0",
            epoch=1,
            turn=1,
            predicted_ttft_s=0.1,
            predicted_tpot_s=0.1,
        )
        await bus.subscribe(subjects.submit(MACRO), made.on_submit)
        await made.registered("a")
        yield made
        await asyncio.gather(*made.scripts)
