"""The worker on the bus: translates messages into actions of the step loop, and back.

Decides nothing: the instance scheduler does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TypeVar

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.bus.tasks import end_task
from rondo.errors import EngineError
from rondo.policy.live import LiveScheduler
from rondo.policy.plan import Job
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.types import Finished, FinishReason, Phase
from rondo.wire import messages as m
from rondo_worker.engines.base import Engine, EngineGone, EngineRequest
from rondo_worker.hand_back import HandBack
from rondo_worker.intake import Intake
from rondo_worker.loop import StepRecord
from rondo_worker.membership import Registration
from rondo_worker.metrics import WorkerMetrics
from rondo_worker.pipe_loop import AnyScheduler, make_loop
from rondo_worker.reports import Reporter
from rondo_worker.streams import TokenStreams

log = logging.getLogger("rondo.worker")

HEARTBEAT_S = 1.0
#: A prompt that is not granted within this time is handed back: whoever admitted it has forgotten.
GRANT_WAIT_S = 60.0
#: From the word that it leaves until it hands requests back; sooner, they would be sent here again.
ANNOUNCED_S = 0.1
#: An instance with nothing left to do stays this long: prompts may be on their way to it.
LINGER_S = 0.3
#: How long the present step may take when the loop is to end.
LOOP_TIMEOUT_S = 5.0

T = TypeVar("T")


class WorkerService:
    """One instance.

    Args:
        on_death: called when the engine is beyond repair.
        share_prefixes: prompts that begin with the same blocks of tokens share their KV.
        step_timeout_s: an engine whose step takes longer hangs, and is beyond repair; 0: no limit.
    """

    def __init__(
        self,
        bus: Bus,
        record: m.InstanceRecord,
        engine: Engine,
        scheduler: AnyScheduler,
        metrics: WorkerMetrics,
        on_death: Callable[[Exception], None],
        *,
        share_prefixes: bool = True,
        step_timeout_s: float = 0.0,
    ) -> None:
        self._bus = bus
        self._instance_id = record.instance_id
        self._intake = Intake(record.max_model_len, record.block_size if share_prefixes else None)
        self._metrics = metrics
        self._outbox = Outbox(bus)
        self._streams = TokenStreams(record.instance_id, self._outbox.send)
        self._reporter = Reporter(record.instance_id, self._outbox.send)
        self._registration = Registration(bus, record)
        self._main = asyncio.get_running_loop()
        self._loop = make_loop(
            engine,
            scheduler,
            lambda record: self._post(self._on_record, record),
            lambda error: self._post(on_death, error),
        )
        self._hand_back = HandBack(self._loop, self._streams, self._post, self._on_record)
        self._on_death = on_death
        self._step_timeout_s = step_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def registered(self) -> bool:
        """Whether the cluster can know of this instance."""
        return self._registration.registered

    async def start(self) -> None:
        """Subscribes, registers, and starts the step loop."""
        await self._bus.subscribe(subjects.run(self._instance_id), self._on_run)
        await self._bus.subscribe(subjects.command(self._instance_id), self._on_command)
        self._loop.start()
        await self._renew()
        self._bus.on_reconnect(
            lambda: self._spawn(self._registration.put(self._reporter.incarnation))
        )
        self._spawn(self._heartbeat())

    async def stop(self, drain_timeout_s: float) -> None:
        """Takes nothing new, lets what runs finish in time, leaves, stops the loop.

        What has not begun is handed back at once, what does not finish in time then.
        """
        await self._registration.drain()
        if not self._streams.idle.is_set():
            await asyncio.sleep(ANNOUNCED_S)
        self._hand_back.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_timeout_s):
                await self._streams.idle.wait()
                await asyncio.sleep(LINGER_S)
        self._hand_back.everything()
        await end_task(*self._tasks)
        await self._registration.remove()
        self._reporter.close()
        await self._outbox.close()
        await asyncio.to_thread(self._loop.stop, 0.0 if self._hangs() else LOOP_TIMEOUT_S)

    # Membership

    async def _renew(self) -> None:
        """Registers as a new incarnation, with nothing on it."""
        incarnation = uuid.uuid4().hex[:12]
        self._streams.restart(incarnation)
        self._reporter.restart(incarnation)
        await self._registration.put(incarnation)
        self._report_full()

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._hangs():
                self._on_death(EngineError(f"a step takes over {self._step_timeout_s:g} s"))
                return  # silence is true now
            self._hand_back.ungranted(GRANT_WAIT_S)
            idle = self._streams.idle.is_set
            if idle() and self._reporter.no_news:  # the loop's thread has to live, too
                self._loop.post(lambda *_, idle=idle: self._post(self._reporter.beat, idle))
            else:
                self._report_full()

    def _hangs(self) -> bool:
        return 0 < self._step_timeout_s < self._loop.step_age_s()

    def _report_full(self) -> None:
        """Reports the full state after the current step.

        A step may be long: unless one has just been sent, a bare report goes before it and says
        that this process lives.
        """
        last, silent_s = self._reporter.last, time.monotonic() - self._reporter.sent_s
        if last and last.phase is not Phase.IDLE and silent_s > HEARTBEAT_S / 2:
            bare = msgspec.structs.replace(last, prefilled=(), finished=(), steps=(), members=None)
            self._reporter.step(bare, ())
            self._reporter.flush()

        def snapshot(_: LiveScheduler, __: Engine) -> None:
            self._post(self._on_record, StepRecord(self._loop.progress(full=True)))

        self._loop.post(snapshot)

    # Messages in

    def _on_run(self, incoming: Incoming) -> None:
        match incoming.message:
            case m.Run() as run:
                self._accept(run)
            case m.Cancel(request_id=request_id):
                self._cancel(request_id)
            case m.Resync() as resync:
                self._streams.resync(resync)
            case other:
                self._unexpected(incoming, other)

    def _on_command(self, incoming: Incoming) -> None:
        message = incoming.message
        if not isinstance(message, m.Command):
            self._unexpected(incoming, message)
            return
        if not self._reporter.obeys(message.macro_id, message.epoch):
            self._metrics.stale_commands.inc()
            return
        match message:
            case m.TurnToken() | m.TurnExtend():
                self._grant(message)
            case m.TurnRevoke(turn=turn):
                self._loop.post(lambda s, _: s.revoke(turn))
            case m.CancelRun(request_id=request_id):
                self._cancel(request_id)
            case m.SendFullReport():
                self._report_full()
            case m.ReportOften(for_s=for_s):
                self._reporter.often(for_s)
            case m.MayBeat(for_s=for_s):
                self._reporter.may_beat(for_s)
            case m.Rejoin():
                self._rejoin()
            case m.HandOver(target_id=target_id):
                logs.info(log, "handed_over", source=message.macro_id, target=target_id)
                self._reporter.obey(target_id)
                self._report_full()

    def _grant(self, token: m.TurnToken | m.TurnExtend) -> None:
        def grant(scheduler: LiveScheduler, _: Engine) -> None:
            now_s = time.monotonic()
            scheduler.grant(token.turn, token.request_ids, token.budget_s, now_s, token.batching)

        self._loop.post(grant)

    def _accept(self, run: m.Run) -> None:
        if self._hand_back.leaving:
            self._streams.elsewhere(run.request_id, run.gateway_id)
            return
        if not self._streams.open(run.request_id, run.gateway_id, run.traceparent):
            return
        try:
            job, request = self._intake.read(run)
        except EngineError as error:
            self._streams.fail(error)
            return
        except Exception:  # whatever it was: a request that is live must end
            log.exception("run_unreadable")
            self._streams.fail(EngineError("it cannot be read", (run.request_id,)))
            return
        if not self._loop.post(lambda s, engine: self._add(s, engine, job, request)):
            self._streams.hand_back(run.request_id)

    def _add(
        self, scheduler: LiveScheduler, engine: Engine, job: Job, request: EngineRequest
    ) -> None:
        """On the loop's thread."""
        try:
            engine.add(request)
            if not (problem := scheduler.add(job)):
                return
            error = EngineError(problem)
        except EngineGone:  # which ends the loop, and is no request's fault
            raise
        except EngineError as refusal:
            error = refusal
        error.request_ids = (job.request_id,)
        engine.remove(job.request_id)
        scheduler.cancel(job.request_id)
        ended = (Finished(job.request_id, FinishReason.ERROR, 0),)
        record = StepRecord(self._loop.progress(finished=ended), error=error)
        self._post(self._on_record, record)

    def _cancel(self, request_id: str) -> None:
        if self._streams.drop(request_id):
            self._metrics.cancelled.inc()

        def cancel(scheduler: LiveScheduler, engine: Engine) -> None:
            scheduler.cancel(request_id)
            engine.remove(request_id)

        self._loop.post(cancel)

    def _rejoin(self) -> None:
        """The coordinator gave this instance up: its requests go on elsewhere, or do already."""
        logs.warning(log, "rejoin", instance=self._instance_id)
        self._hand_back.everything()
        self._spawn(self._renew())

    def _unexpected(self, incoming: Incoming, message: object) -> None:
        kind = type(message).__name__
        logs.warning(log, "unexpected_message", subject=incoming.subject, kind=kind)

    # Messages out

    def _on_record(self, record: StepRecord) -> None:
        """On the event loop, after each step."""
        if record.outcome:
            self._streams.prefilled(record.prefilled, record.began_s, record.ended_s)
            self._streams.step(record.outcome.tokens, record.ended_s, record.logprobs)
        if record.error:
            self._streams.fail(record.error)
        self._reporter.step(record.progress, record.turn_events)
        self._metrics.observe(record)
        self._hand_back.observe(record)

    def _post(self, callback: Callable[[T], None], value: T) -> None:
        """Calls back on the event loop, from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
            self._main.call_soon_threadsafe(callback, value)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
