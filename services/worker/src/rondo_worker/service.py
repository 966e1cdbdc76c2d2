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
from rondo.errors import DecodeError, EngineError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.plan import Job
from rondo.prefix import block_names
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.types import Finished, FinishReason, Phase
from rondo.wire import messages as m
from rondo.wire.codec import unpack_tokens
from rondo_worker.engines.base import Engine, EngineRequest
from rondo_worker.loop import EngineLoop, StepRecord
from rondo_worker.membership import Registration
from rondo_worker.metrics import WorkerMetrics
from rondo_worker.reports import Reporter
from rondo_worker.streams import TokenStreams

log = logging.getLogger("rondo.worker")

HEARTBEAT_S = 1.0

T = TypeVar("T")


class WorkerService:
    """One instance.

    Args:
        on_death: called when the engine is beyond repair.
        share_prefixes: prompts that begin with the same blocks of tokens share their KV.
    """

    def __init__(
        self,
        bus: Bus,
        record: m.InstanceRecord,
        engine: Engine,
        scheduler: InstanceScheduler,
        metrics: WorkerMetrics,
        on_death: Callable[[Exception], None],
        *,
        share_prefixes: bool = True,
    ) -> None:
        self._bus = bus
        self._instance_id = record.instance_id
        self._max_model_len = record.max_model_len
        self._share_block_size = record.block_size if share_prefixes else None
        self._metrics = metrics
        self._outbox = Outbox(bus)
        self._streams = TokenStreams(record.instance_id, self._outbox.send)
        self._reporter = Reporter(record.instance_id, self._outbox.send)
        self._registration = Registration(bus, record)
        self._main = asyncio.get_running_loop()
        self._loop = EngineLoop(
            engine,
            scheduler,
            lambda record: self._post(self._on_record, record),
            lambda error: self._post(on_death, error),
        )
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
        """Takes nothing new, lets what runs finish in time, leaves, stops the loop."""
        await self._registration.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_timeout_s):
                await self._streams.idle.wait()
        await end_task(*self._tasks)
        await self._registration.remove()
        self._reporter.close()
        await self._outbox.close()
        await asyncio.to_thread(self._loop.stop, 5.0)

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
            self._report_full()

    def _report_full(self) -> None:
        """Reports the full state after the current step.

        A step may be long: a bare report goes before it and says that this process lives.
        """
        last = self._reporter.last
        if last and last.phase is not Phase.IDLE:
            bare = msgspec.structs.replace(last, prefilled=(), finished=(), steps=(), members=None)
            self._reporter.step(bare, ())
            self._reporter.flush()

        def snapshot(_: InstanceScheduler, __: Engine) -> None:
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
        if not isinstance(
            message,
            m.TurnToken | m.TurnExtend | m.TurnRevoke | m.CancelRun | m.SendFullReport | m.Rejoin,
        ):
            self._unexpected(incoming, message)
            return
        if message.epoch < self._reporter.epoch:
            self._metrics.stale_commands.inc()
            return
        self._reporter.epoch = message.epoch
        match message:
            case m.TurnToken() | m.TurnExtend():
                self._grant(message)
            case m.TurnRevoke(turn=turn):
                self._loop.post(lambda s, _: s.revoke(turn))
            case m.CancelRun(request_id=request_id):
                self._cancel(request_id)
            case m.SendFullReport():
                self._report_full()
            case m.Rejoin():
                self._rejoin()

    def _grant(self, token: m.TurnToken | m.TurnExtend) -> None:
        def grant(scheduler: InstanceScheduler, _: Engine) -> None:
            now_s = time.monotonic()
            scheduler.grant(token.turn, token.request_ids, token.budget_s, now_s, token.batching)

        self._loop.post(grant)

    def _accept(self, run: m.Run) -> None:
        if not self._streams.open(run.request_id, run.gateway_id):
            return
        try:
            prompt = tuple(unpack_tokens(run.prompt))
        except DecodeError as error:
            self._streams.refuse(run.request_id, str(error))
            return
        room = self._max_model_len - len(prompt)
        if room < 1 or run.max_tokens < 1:
            self._streams.refuse(run.request_id, "the prompt leaves no room for an answer")
            return
        max_tokens = min(run.max_tokens, room)
        job = Job(
            request_id=run.request_id,
            prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            predicted_tokens=run.predicted_tokens,
            slo=run.slo,
            arrival_s=time.monotonic() - run.age_s,
            ignore_eos=run.ignore_eos,
            block_names=block_names(prompt, size) if (size := self._share_block_size) else (),
        )
        request = EngineRequest(
            request_id=run.request_id,
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=run.sampling,
            ignore_eos=run.ignore_eos,
            num_resumed=run.num_resumed,
        )
        self._loop.post(lambda s, engine: self._add(s, engine, job, request))

    def _add(
        self, scheduler: InstanceScheduler, engine: Engine, job: Job, request: EngineRequest
    ) -> None:
        """On the loop's thread."""
        try:
            engine.add(request)
            problem = scheduler.add(job)
        except EngineError as error:
            problem = error.problem
        if problem:
            engine.remove(job.request_id)
            scheduler.cancel(job.request_id)
            ended = (Finished(job.request_id, FinishReason.ERROR, 0),)
            record = StepRecord(
                self._loop.progress(finished=ended),
                error=EngineError(problem, (job.request_id,)),
            )
            self._post(self._on_record, record)

    def _cancel(self, request_id: str) -> None:
        if self._streams.drop(request_id):
            self._metrics.cancelled.inc()

        def cancel(scheduler: InstanceScheduler, engine: Engine) -> None:
            scheduler.cancel(request_id)
            engine.remove(request_id)

        self._loop.post(cancel)

    def _rejoin(self) -> None:
        """The coordinator gave this instance up: what it ran has been ended by its gateways."""
        logs.warning(log, "rejoin", instance=self._instance_id)

        def clear(scheduler: InstanceScheduler, engine: Engine) -> None:
            for member in scheduler.members(0.0):
                scheduler.cancel(member.request_id)
                engine.remove(member.request_id)

        self._loop.post(clear)
        self._spawn(self._renew())

    def _unexpected(self, incoming: Incoming, message: object) -> None:
        kind = type(message).__name__
        logs.warning(log, "unexpected_message", subject=incoming.subject, kind=kind)

    # Messages out

    def _on_record(self, record: StepRecord) -> None:
        """On the event loop, after each step."""
        if record.outcome:
            self._streams.step(record.outcome.tokens)
        if record.error:
            self._streams.fail(record.error)
        self._reporter.step(record.progress, record.turn_events)
        self._metrics.observe(record)

    def _post(self, callback: Callable[[T], None], value: T) -> None:
        """Calls back on the event loop, from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
            self._main.call_soon_threadsafe(callback, value)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
