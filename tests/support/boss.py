"""What a worker is told and what it says, in the hands of a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.types import Progress
from rondo.wire import messages as m
from rondo.wire.codec import pack_tokens
from tests.support.services import GREEDY, SLO, Stage, Tap

PROMPT = tuple(range(20, 40))


class Boss:
    """Plays the coordinator and the gateways of one worker, and hears all it says."""

    def __init__(self, bus: Bus, instance_id: str, reports: Tap, frames: Tap) -> None:
        self._bus = bus
        self._run = subjects.run(instance_id)
        self._command = subjects.command(instance_id)
        self.epoch = 1
        self.reports = reports
        self.frames = frames

    async def ask(self, message: m.Message) -> None:
        """Sends what a gateway sends."""
        await self._bus.publish(self._run, message)

    async def command(self, message: m.Command) -> None:
        """Sends what a coordinator sends, for the macro-instance that the worker obeys."""
        reports = [*self.reports.of(m.StepReport)]
        obeyed = message.macro_id or (reports[-1].macro_id if reports else "")
        order = msgspec.structs.replace(message, macro_id=obeyed)
        await self._bus.publish(self._command, order)

    async def prompt(
        self,
        request_id: str,
        max_tokens: int = 8,
        *,
        tokens: Sequence[int] = PROMPT,
        predicted: int | None = None,
        gateway_id: str = "g0",
        data: bytes | None = None,
    ) -> None:
        """Sends a prompt: `tokens`, or whatever `data` is; `predicted` tokens are expected of its
        answer, as a rule all it may have."""
        run = m.Run(
            request_id=request_id,
            gateway_id=gateway_id,
            prompt=pack_tokens(tokens) if data is None else data,
            max_tokens=max_tokens,
            predicted_tokens=max_tokens if predicted is None else predicted,
            sampling=GREEDY,
            slo=SLO,
            age_s=0.0,
            ignore_eos=True,
        )
        await self.ask(run)

    async def grant(self, *request_ids: str, turn: int = 1) -> None:
        """Sends a token with time enough."""
        await self.command(
            m.TurnToken(epoch=self.epoch, turn=turn, request_ids=request_ids, budget_s=10.0)
        )

    def deltas(self, request_id: str) -> list[m.TokenDelta]:
        """All a worker sent of a request."""
        frames = self.frames.of(m.TokenFrame)
        return [d for frame in frames for d in frame.deltas if d.request_id == request_id]

    def tokens(self, request_id: str) -> list[int]:
        """The answer so far; each token must have come once and in order."""
        answer: list[int] = []
        for delta in self.deltas(request_id):
            assert delta.index == len(answer)
            answer.extend(delta.tokens)
        return answer

    async def some(self, request_id: str, count: int) -> list[m.TokenDelta]:
        """What was sent of a request, once it is so many deltas."""
        await self.frames.until(lambda _: len(self.deltas(request_id)) >= count)
        return self.deltas(request_id)

    async def end(self, request_id: str) -> m.TokenDelta:
        """The delta that ends a request."""
        await self.frames.until(lambda _: any(d.finish for d in self.deltas(request_id)))
        return next(d for d in self.deltas(request_id) if d.finish)

    def progress(self) -> list[Progress]:
        """All progress reported so far."""
        return [report.progress for report in self.reports.of(m.StepReport)]

    async def reported(self, done: Callable[[list[Progress]], bool]) -> list[Progress]:
        """All progress, once a condition holds for it."""
        await self.reports.until(lambda _: done(self.progress()))
        return self.progress()

    async def full_report(self) -> Progress:
        """The full state after all that was sent so far."""
        # Two under an epoch of their own: a heartbeat may have looked before the first one came.
        self.epoch += 1

        def full() -> list[m.StepReport]:
            reports = [r for r in self.reports.of(m.StepReport) if r.epoch == self.epoch]
            return [report for report in reports if report.progress.members is not None]

        for _ in range(2):
            await self.command(m.SendFullReport(epoch=self.epoch))
        await self.reports.until(lambda _: len(full()) >= 2)
        return full()[1].progress


async def boss_of(stage: Stage, instance_id: str = "w0") -> Boss:
    """Before the worker starts, so that nothing is missed."""
    reports = await stage.tap(subjects.report(instance_id))
    frames = await stage.tap(subjects.all_tokens())
    return Boss(await stage.harness.bus("boss"), instance_id, reports, frames)
