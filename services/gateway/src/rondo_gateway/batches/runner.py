"""Works on one batch, from the check of its input to its complete files, wherever it stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import count

import msgspec

from rondo.bus.delivery import backoff_s
from rondo.bus.tasks import end_task
from rondo.errors import BusUnavailable
from rondo.service import logs
from rondo.wire.messages import BatchProblem, BatchRecord
from rondo_gateway.batches import lines
from rondo_gateway.batches.caller import Answer, LineCaller
from rondo_gateway.batches.outcome import write_files
from rondo_gateway.batches.record import BEAT_S, HeldRecord, moved
from rondo_gateway.batches.result_log import ResultLog
from rondo_gateway.batches.store import FileStore
from rondo_gateway.batches.window import Place, Window

log = logging.getLogger("rondo.gateway")

#: A line whose answer was a failure of ours is tried so often.
MAX_TRIES = 3
#: A round of the event loop that takes longer is one of a busy gateway: for so many more of them no
#: line begins.
BUSY_ROUND_S = 0.003
ROUNDS_OFF = 2
#: The cluster is busy or on its way up: these are tried again as long as the batch may last.
BUSY = (429, 503)


class BatchRunner:
    """One batch on its owner.

    Args:
        most_lines: that run side by side.
    """

    def __init__(
        self, held: HeldRecord, store: FileStore, caller: LineCaller, most_lines: int
    ) -> None:
        self._held = held
        self._store = store
        self._caller = caller
        self._log = ResultLog(store, held.record.batch_id)
        self._window = Window(most_lines)
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    @property
    def record(self) -> BatchRecord:
        """The batch as it stands."""
        return self._held.record

    async def run(self) -> None:
        """Returns when the batch is over.

        Raises:
            OwnerLost: another gateway goes on with it.
            BusUnavailable: for now nobody can.
        """
        if self.record.status == "validating":
            await self._validate()
        await self._log.replay()
        if self.record.status == "in_progress":
            await self._work()
        if self.record.status in ("finalizing", "cancelling"):
            await self._finish()
        logs.info(log, "batch_over", batch=self.record.batch_id, status=self.record.status)

    async def _validate(self) -> None:
        source = await self._store.find(self.record.input_file_id)
        if source is None:
            problems = [BatchProblem(code="file_not_found", message="The input file is gone.")]
            count = 0
        else:
            count, problems = await lines.check_lines(
                self._store.read(source), self.record.endpoint
            )

        def checked(record: BatchRecord) -> BatchRecord:
            if record.status != "validating":
                return record
            found = msgspec.structs.replace(record, num_lines=count, problems=tuple(problems))
            return moved(found, "failed" if problems else "in_progress")

        await self._held.change(checked)

    async def _work(self) -> None:
        """Runs the lines that have no result, until all have, or the batch is to end."""
        writer = asyncio.create_task(self._log.write())
        feeding = asyncio.create_task(self._feed())
        try:
            while self._may_go_on() and not feeding.done():
                await asyncio.wait({feeding, writer}, timeout=BEAT_S, return_when="FIRST_COMPLETED")
                if writer.done():
                    writer.result()
                await self._renew()
            if feeding.done():
                feeding.result()
            await self._give_up(feeding)
            await self._log.settled()
            if self.record.status == "in_progress" and not self._may_go_on():
                await self._mark_expired()
        finally:
            await self._give_up(feeding)
            await end_task(writer)
        await self._held.change(self._worked)

    async def _renew(self) -> None:
        """Shows how far it is. While the bus is away, what runs goes on as long as it is ours."""
        try:
            await self._held.change(self._counted)
        except BusUnavailable as error:
            if self._held.may_be_taken:
                raise
            logs.warning(log, "batch_not_renewed", batch=self.record.batch_id, error=str(error))

    def _may_go_on(self) -> bool:
        return self.record.status == "in_progress" and self.record.age_s < self.record.window_s

    async def _feed(self) -> None:
        """Starts lines as the window has room; returns when all have a result."""
        async for number, line in self._open_lines():
            while not self._window.is_open:
                await self._next_change()
            place = self._window.enter()
            task = asyncio.create_task(self._run_line(place, number, line))
            task.add_done_callback(partial(self._ended, place))
            self._running.add(task)
            await _let_others_run()
        while self._running:
            await self._next_change()
        await self._log.settled()

    async def _next_change(self) -> None:
        await self._window.change()
        if self._failure is not None:
            raise self._failure

    def _ended(self, place: Place, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # What a line did not expect ends the work on its batch.
            self._failure = task.exception() or self._failure
        place.leave()

    async def _open_lines(self) -> AsyncIterator[tuple[int, bytes]]:
        source = await self._store.find(self.record.input_file_id)
        if source is None:
            return
        number = 0
        async for line in lines.split_lines(self._store.read(source)):
            if number not in self._log.done:
                yield number, line
            number += 1

    async def _run_line(self, place: Place, number: int, line: bytes) -> None:
        found = lines.parse_line(line, self.record.endpoint)  # checked before
        answer = await self._answer(place, found.url, bytes(found.body))
        batch_id = self.record.batch_id
        result = lines.answered(
            *(number, batch_id, found.custom_id),
            *(answer.status, answer.request_id, answer.body),
        )
        if len(result.line) > lines.MAX_RESULT_BYTES:
            message = f"The response is larger than {lines.MAX_RESULT_BYTES} bytes."
            result = lines.unanswered(
                number, batch_id, found.custom_id, "response_too_large", message
            )
        self._log.add(result)

    async def _answer(self, place: Place, url: str, body: bytes) -> Answer:
        """The line's last word: what the cluster cannot do now is tried again later."""
        failures = 0
        for tries in count(1):
            answer = await self._caller.call(url, body, place.taken)
            if answer.status in BUSY:
                failures = 0
                wait_s = answer.retry_after_s or backoff_s(tries)
            elif answer.status >= 500 and failures + 1 < MAX_TRIES:
                failures += 1
                wait_s = backoff_s(failures)
            else:
                break
            place.again()
            await asyncio.sleep(wait_s)
        return answer

    async def _give_up(self, feeding: asyncio.Task[None]) -> None:
        await end_task(feeding)
        await end_task(*self._running)

    async def _mark_expired(self) -> None:
        """Tells of each line without a result that there will be none."""
        message = "This request could not be executed before the completion window expired."
        async for number, line in self._open_lines():
            custom_id = lines.parse_line(line, self.record.endpoint).custom_id
            self._log.add(
                lines.unanswered(number, self.record.batch_id, custom_id, "batch_expired", message)
            )
        await self._log.settled()

    def _counted(self, record: BatchRecord) -> BatchRecord:
        results = self._log
        return msgspec.structs.replace(
            record,
            num_completed=len(results.done) - results.num_failed,
            num_failed=results.num_failed,
            input_tokens=results.input_tokens,
            output_tokens=results.output_tokens,
        )

    def _worked(self, record: BatchRecord) -> BatchRecord:
        record = self._counted(record)
        if record.status != "in_progress":
            return record
        if len(self._log.done) < record.num_lines:
            problem = BatchProblem(code="file_gone", message="The input file was deleted.")
            record = msgspec.structs.replace(record, problems=(problem,))
        return moved(record, "finalizing")

    async def _finish(self) -> None:
        record = self._counted(self.record)
        beating = asyncio.create_task(self._beat())
        try:
            await write_files(self._store, self._log, record)
        finally:
            await end_task(beating)
        await self._held.change(lambda r: moved(self._counted(r), _end_of(r)))
        await self._log.drop()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._renew()


async def _let_others_run() -> None:
    """One round of the event loop, and as long again where that took long.

    Instances run lines in what others leave over; here online requests wait for one line to begin,
    not for many, and where this gateway is busy lines begin as slowly as it takes.
    """
    began_s = time.monotonic()
    await asyncio.sleep(0)
    round_s = time.monotonic() - began_s
    if round_s > BUSY_ROUND_S:
        await asyncio.sleep(ROUNDS_OFF * round_s)


def _end_of(record: BatchRecord) -> str:
    if record.status == "cancelling":
        return "cancelled"
    return "expired" if record.age_s >= record.window_s else "completed"
