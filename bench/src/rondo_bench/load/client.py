"""The load client: open and closed loop against any OpenAI-compatible server.

Nothing raises for a failed request: every one of them ends as an `Outcome`. Open loop means that
requests leave at their times, whatever became of the others; in a closed loop each client sends
its next request when the last one has ended.

    async with LoadClient(Target(base_url=url, shape=BodyShape(model=name))) as client:
        outcomes = await client.open_loop(arrivals, RunOptions(on_end=show))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp

from rondo.bus.tasks import end_task
from rondo.errors import ConfigError
from rondo.metrics.lifecycle import Lifecycle
from rondo.types import Slo
from rondo_bench.load.events import BadEvent, EventReader
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.load.shortest_queue import ShortestQueue
from rondo_bench.sim.records import Arrival

#: HTTP statuses of a refusal.
REFUSED = (429, 503)
#: Idle connections are used again for so long: less than servers keep them (uvicorn: 5 s), or
#: requests would meet connections that are just being closed.
KEEPALIVE_S = 2.0
#: Of a body that says what went wrong, this much is kept.
ERROR_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go and how they look.

    Args:
        slo: the objective of requests that bring none.
        replicas: further servers like that of `base_url`; each request goes to the one with the
            fewest under way.
    """

    base_url: str
    shape: BodyShape
    slo: Slo | None = None
    timeout_s: float = 600.0
    api_key: str | None = None
    replicas: tuple[str, ...] = ()

    @property
    def urls(self) -> list[str]:
        """Of the endpoint, on every server."""
        servers = (self.base_url, *self.replicas)
        return [url.rstrip("/").removesuffix("/v1") + self.shape.path for url in servers]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of one run.

    Args:
        seed: of the prompts.
        max_failures: the run is given up when more requests than this have failed (a refusal is no
            failure); None never gives up.
        keep_token_times: keep the instant of every event with text.
        on_end: called with each outcome when it ends, in order of ending.
    """

    seed: int = 0
    max_failures: int | None = None
    keep_token_times: bool = False
    on_end: Callable[[Outcome], None] | None = None


@dataclass(slots=True)
class _Run:
    """One run while it is on."""

    options: RunOptions
    start_s: float
    outcomes: list[Outcome]
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    num_failed: int = 0

    def now_s(self) -> float:
        return time.monotonic() - self.start_s

    def ended(self, outcome: Outcome) -> None:
        self.num_failed += outcome.ending.is_failure
        limit = self.options.max_failures
        if limit is not None and self.num_failed > limit:
            self.given_up.set()
        if self.options.on_end:
            self.options.on_end(outcome)


class LoadClient:
    """Sends requests over one pool of connections; use as an async context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._servers = ShortestQueue(target.urls)
        self._headers = {"content-type": "application/json"}
        if target.api_key:
            self._headers["authorization"] = f"Bearer {target.api_key}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LoadClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None  # made on entering
        await self._session.close()

    async def open_loop(
        self, arrivals: Sequence[Arrival], options: RunOptions | None = None
    ) -> list[Outcome]:
        """Sends each request at its `at_s`, counted from now; the outcomes in the same order."""
        run = _begin(arrivals, options)

        async def send_all() -> None:
            async with asyncio.TaskGroup() as group:
                for index, outcome in enumerate(run.outcomes):
                    body = self._body(run, index)  # ready before its time has come
                    # uvloop rounds to milliseconds, down as well: no request leaves early
                    while (wait_s := outcome.arrival.at_s - run.now_s()) > 0:  # noqa: ASYNC110
                        await asyncio.sleep(wait_s)
                    group.create_task(self._ask(run, outcome, body))

        return await _finish(run, send_all())

    async def closed_loop(
        self, arrivals: Sequence[Arrival], concurrency: int, options: RunOptions | None = None
    ) -> list[Outcome]:
        """Keeps `concurrency` requests under way until all were sent; `at_s` does not count.

        Returns:
            The outcomes in the order of `arrivals`; the arrival of each is when it was sent.
        """
        if concurrency < 1:
            raise ConfigError("--concurrency", f"must be at least 1, not {concurrency}")
        run = _begin(arrivals, options)
        todo = iter(enumerate(run.outcomes))

        async def one_client() -> None:
            for index, outcome in todo:
                body = self._body(run, index)
                outcome.times.arrival_s = run.now_s()
                await self._ask(run, outcome, body)

        async def send_all() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(arrivals))):
                    group.create_task(one_client())

        return await _finish(run, send_all())

    def _body(self, run: _Run, index: int) -> bytes:
        target, arrival = self._target, run.outcomes[index].arrival
        return target.shape.body(arrival, target.slo, run.options.seed, index)

    async def _ask(self, run: _Run, outcome: Outcome, body: bytes) -> None:
        outcome.sent_s = run.now_s()
        server = self._servers.take()
        try:
            async with asyncio.timeout(self._target.timeout_s):
                await self._stream(run, outcome, self._servers.url(server), body)
        except TimeoutError:
            outcome.ending = Ending.TIMED_OUT
            outcome.error = f"not complete after {self._target.timeout_s:g} s"
        except (aiohttp.ClientError, OSError, BadEvent) as error:
            outcome.ending, outcome.error = Ending.BROKEN, f"{type(error).__name__}: {error}"
        finally:
            self._servers.ended(server)
        outcome.ended_s = run.now_s()
        run.ended(outcome)

    async def _stream(self, run: _Run, outcome: Outcome, url: str, body: bytes) -> None:
        assert self._session is not None  # made on entering
        async with self._session.post(url, data=body, headers=self._headers) as response:
            outcome.status = response.status
            if response.status != 200:
                outcome.ending = Ending.REFUSED if response.status in REFUSED else Ending.ERROR
                outcome.retry_after_s = _seconds(response.headers.get("retry-after"))
                text = await response.text(errors="replace")
                outcome.error = f"status {response.status}: {text[:ERROR_CHARS]}"
                return
            await _read(run, outcome, response.content)


async def _read(run: _Run, outcome: Outcome, content: aiohttp.StreamReader) -> None:
    """One stamp a read: events that came together are taken together."""
    reader, times = EventReader(), outcome.times
    async for data in content.iter_any():
        count = reader.feed(data)
        now_s = run.now_s()
        if count:
            outcome.num_events += count
            if run.options.keep_token_times:
                outcome.token_times_s += [now_s] * count
            for _ in range(count):
                times.tokens(1, now_s, keep_gaps=True)
        if reader.error is not None:
            outcome.ending, outcome.error = Ending.ERROR, f"in stream: {reader.error}"
            return
    if reader.num_tokens is not None:
        times.num_tokens = reader.num_tokens  # an event may carry several, or none that is text
    if reader.done or reader.finished:
        outcome.ending = Ending.COMPLETED
    else:
        outcome.ending, outcome.error = Ending.BROKEN, "the stream ended without [DONE]"


def _begin(arrivals: Sequence[Arrival], options: RunOptions | None) -> _Run:
    outcomes = [Outcome(arrival, Lifecycle(arrival.at_s)) for arrival in arrivals]
    return _Run(options or RunOptions(), time.monotonic(), outcomes)


async def _finish(run: _Run, work: Coroutine[None, None, None]) -> list[Outcome]:
    """Runs to the end, or until too much has failed: what has no ending then stays aborted."""
    sending = asyncio.create_task(work)
    watching = asyncio.create_task(_wait(run.given_up))
    try:
        await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending  # a mistake of ours is not to be hidden
    finally:
        await end_task(sending)
        await end_task(watching)
    return run.outcomes


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _seconds(text: str | None) -> float | None:
    """The value of a Retry-After header; None where it is a date or absent."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
