"""An emulated instance on the bus, one object of many in this process: it answers grants.

The instance scheduler is the real one and the messages are those of a worker; steps take the time
that a profile says, by a timer, and compute nothing. One process holds hundreds of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.bus.sequence import Sequencer
from rondo.perf.profile import LatencyProfile
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, NewToken, StepOutcome, StepPlan
from rondo.policy.progress import NOTHING, progress_of
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.types import Phase, StepStat
from rondo.wire.messages import (
    Beat,
    Cancel,
    CancelRun,
    InstanceRecord,
    MayBeat,
    Message,
    Rejoin,
    ReportOften,
    Run,
    SendFullReport,
    StepReport,
    TokenDelta,
    TokenFrame,
    TurnBegan,
    TurnEnded,
    TurnExtend,
    TurnRevoke,
    TurnToken,
)

#: As of workers.
HEARTBEAT_S = 1.0
LEISURE_S = 0.25
COALESCE_S = 0.02
MAX_RUNNING = 256
MAX_PREFILL_TOKENS = 4096
#: Every token of every answer.
TOKEN = 7
_TOKEN_BYTES = 4

Send = Callable[[str, Message], None]


class BusInstance:
    """One instance; call `start`, and `stop` in any case.

    Args:
        send: publishes without waiting.
        delay_s: of the first heartbeat, so that many do not beat at once.
    """

    def __init__(
        self, instance_id: str, model: str, latency: LatencyProfile, send: Send, delay_s: float
    ) -> None:
        self.instance_id = instance_id
        self.record = InstanceRecord(
            instance_id=instance_id,
            incarnation="i1",
            model=model,
            engine="emulated",
            max_model_len=latency.num_blocks * latency.block_size,
            block_size=latency.block_size,
            num_blocks=latency.num_blocks,
            max_running=MAX_RUNNING,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
            profile=latency,
        )
        self._latency = latency
        self._send = send
        self._delay_s = delay_s
        self._scheduler = InstanceScheduler(
            KvLedger(latency.num_blocks, latency.block_size),
            max_running=MAX_RUNNING,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
        )
        self._gateways: dict[str, str] = {}
        self._sequencer = Sequencer()
        self._macro_id, self._epoch = "", 0
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._held: list[StepStat] = []
        self._often_until_s = self._beats_until_s = float("-inf")
        self._flush: asyncio.TimerHandle | None = None

    async def start(self, bus: Bus) -> None:
        """Subscribes, registers, and begins to beat."""
        await bus.subscribe(subjects.run(self.instance_id), self._on_run)
        await bus.subscribe(subjects.command(self.instance_id), self._on_command)
        bucket = await bus.key_value(subjects.INSTANCES_BUCKET)
        await bucket.put(self.instance_id, self.record)
        self._report(full=True)
        self._beat = asyncio.get_running_loop().call_later(self._delay_s, self._heartbeat)

    def stop(self) -> None:
        """Does nothing any more."""
        for timer in (self._timer, self._beat, self._flush):
            if timer:
                timer.cancel()

    # Messages in

    def _on_run(self, incoming: Incoming) -> None:
        match incoming.message:
            case Run() as run:
                job = Job(
                    request_id=run.request_id,
                    prompt_tokens=len(run.prompt) // _TOKEN_BYTES,
                    max_tokens=run.max_tokens,
                    predicted_tokens=run.predicted_tokens,
                    slo=run.slo,
                    arrival_s=time.monotonic() - run.age_s,
                    ignore_eos=True,
                )
                self._gateways[run.request_id] = run.gateway_id
                self._scheduler.add(job)
                self._wake()
            case Cancel(request_id=request_id):
                self._forget(request_id)

    def _on_command(self, incoming: Incoming) -> None:
        message = incoming.message
        match message:
            case TurnToken() | TurnExtend():
                self._obey(message.macro_id, message.epoch)
                self._scheduler.grant(
                    message.turn,
                    message.request_ids,
                    message.budget_s,
                    time.monotonic(),
                    message.batching,
                )
                self._wake()
            case TurnRevoke(turn=turn):
                self._scheduler.revoke(turn)
                self._wake()
            case CancelRun(request_id=request_id):
                self._forget(request_id)
            case ReportOften(for_s=for_s):
                self._often_until_s = time.monotonic() + for_s
                if self._held:
                    self._report()
            case MayBeat(for_s=for_s):
                self._beats_until_s = time.monotonic() + for_s
            case SendFullReport() | Rejoin():
                self._obey(message.macro_id, message.epoch)
                self._report(full=True)

    def _obey(self, macro_id: str, epoch: int) -> None:
        self._macro_id, self._epoch = macro_id, epoch

    def _forget(self, request_id: str) -> None:
        self._gateways.pop(request_id, None)
        if self._scheduler.cancel(request_id):
            self._report()

    # Steps

    def _wake(self) -> None:
        if self._timer is None:
            self._step()

    def _step(self) -> None:
        before = self._scheduler.phase
        plan = self._scheduler.plan(time.monotonic())
        for event in self._scheduler.take_turn_events():
            self._turn_event(event)
        if plan is None:
            self._timer = None
            if before is not Phase.IDLE:
                self._report()
            return
        duration_s = self._latency.step_s(
            plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
        )
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(duration_s, self._stepped, plan, duration_s)

    def _stepped(self, plan: StepPlan, duration_s: float) -> None:
        stat = plan.stat(duration_s)
        tokens = {item.request_id: TOKEN for item in plan.items}
        outcome = self._scheduler.commit(plan, tokens)
        self._frames(outcome.tokens)
        self._held.append(stat)
        if outcome.prefilled or outcome.started or outcome.finished:
            self._report(outcome)
        elif self._flush is None:
            often = time.monotonic() < self._often_until_s
            delay_s = COALESCE_S if often else LEISURE_S
            self._flush = asyncio.get_running_loop().call_later(delay_s, self._report)
        self._step()

    # Messages out

    def _frames(self, tokens: tuple[NewToken, ...]) -> None:
        """One frame a gateway, as workers send them."""
        frames: dict[str, list[TokenDelta]] = {}
        for token in tokens:
            gateway_id = self._gateways.get(token.request_id)
            if gateway_id is None:
                continue
            delta = TokenDelta(token.request_id, token.index, (token.token,), token.finish)
            frames.setdefault(gateway_id, []).append(delta)
            if token.finish:
                del self._gateways[token.request_id]
        for gateway_id, deltas in frames.items():
            frame = TokenFrame(
                instance_id=self.instance_id,
                incarnation=self.record.incarnation,
                seq=self._sequencer.next(gateway_id),
                deltas=tuple(deltas),
            )
            self._send(subjects.tokens(gateway_id), frame)

    def _heartbeat(self) -> None:
        busy = self._timer or self._gateways or self._held
        if busy or time.monotonic() >= self._beats_until_s:
            self._report(full=True)
        else:
            beat = Beat(**self._sender(self._sequencer.upcoming()))
            self._send(subjects.beat(self.instance_id), beat)
        self._beat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._heartbeat)

    def _report(self, outcome: StepOutcome = NOTHING, *, full: bool = False) -> None:
        """The state, with all steps that were held."""
        if self._flush:
            self._flush.cancel()
            self._flush = None
        steps, self._held = tuple(self._held), []
        progress = progress_of(
            self._scheduler, time.monotonic(), outcome=outcome, steps=steps, full=full
        )
        report = StepReport(**self._sender(self._sequencer.next()), progress=progress)
        self._send(subjects.report(self.instance_id), report)

    def _turn_event(self, event: TurnStart | TurnEnd) -> None:
        report: Message
        if isinstance(event, TurnStart):
            report = TurnBegan(
                **self._sender(self._sequencer.next()), turn=event.turn, waited_s=event.waited_s
            )
        else:
            report = TurnEnded(
                **self._sender(self._sequencer.next()),
                turn=event.turn,
                duration_s=event.duration_s,
                num_prefilled=event.num_prefilled,
                prefill_tokens=event.prefill_tokens,
                leftover=event.leftover,
            )
        self._send(subjects.report(self.instance_id), report)

    def _sender(self, seq: int) -> dict[str, Any]:
        return {
            "instance_id": self.instance_id,
            "incarnation": self.record.incarnation,
            "epoch": self._epoch,
            "macro_id": self._macro_id,
            "seq": seq,
        }
