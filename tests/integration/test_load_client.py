"""The load client against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from rondo.bus.tasks import end_task
from rondo.types import Slo
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.load.sse_server import serve
from rondo_bench.sim.records import Arrival

EVENT = b'data: {"choices":[{"text":"a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def arrivals(count: int, output_tokens: int = 3, gap_s: float = 0.0) -> list[Arrival]:
    return [
        Arrival(request_id=f"r{i}", at_s=gap_s * i, prompt_tokens=4, output_tokens=output_tokens)
        for i in range(count)
    ]


def target(url: str, *, chat: bool = False, timeout_s: float = 20.0) -> Target:
    return Target(base_url=url, shape=BodyShape(model="m", chat=chat), timeout_s=timeout_s)


@asynccontextmanager
async def good_server(pace_s: float = 0.0) -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(0, pace_s, port.set_result))
    try:
        yield f"http://127.0.0.1:{await port}"
    finally:
        await end_task(task)


@asynccontextmanager
async def server(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def stream(request: web.Request, *events: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    return response


async def ask_one(url: str, timeout_s: float = 20.0) -> Outcome:
    async with LoadClient(target(url, timeout_s=timeout_s)) as client:
        (outcome,) = await client.open_loop(arrivals(1))
    return outcome


async def test_open_loop_sends_each_request_at_its_time() -> None:
    ended: list[Outcome] = []
    options = RunOptions(on_end=ended.append, keep_token_times=True)
    async with good_server(pace_s=0.01) as url, LoadClient(target(url)) as client:
        outcomes = await client.open_loop(arrivals(5, gap_s=0.05), options)
    assert [one.ending for one in outcomes] == [Ending.COMPLETED] * 5
    assert {id(one) for one in ended} == {id(one) for one in outcomes}
    for outcome in outcomes:
        assert outcome.late_s >= 0
        assert outcome.num_tokens == 3
        assert len(outcome.token_times_s) == outcome.num_events == 3
        assert outcome.ttft_s is not None
        assert outcome.meets(Slo(ttft_s=10, tpot_s=10))
    assert outcomes[-1].sent_s >= 0.2


async def test_closed_loop_keeps_so_many_under_way() -> None:
    async with good_server(pace_s=0.005) as url, LoadClient(target(url, chat=True)) as client:
        outcomes = await client.closed_loop(arrivals(9), 3)
    assert all(one.completed for one in outcomes)
    spans = [(one.sent_s, one.ended_s) for one in outcomes]
    most = max(sum(a <= at_s < b for a, b in spans) for at_s, _ in spans)
    assert most == 3


async def test_a_refusal_is_no_failure_and_keeps_its_advice() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, text="later", headers={"retry-after": "1.5"})

    async with server(refuse) as url:
        outcome = await ask_one(url)
    assert (outcome.ending, outcome.status, outcome.retry_after_s) == (Ending.REFUSED, 429, 1.5)
    assert "later" in outcome.error


async def test_errors_before_and_within_a_stream() -> None:
    async def wrong(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text="no such model")

    async def lost(request: web.Request) -> web.StreamResponse:
        return await stream(request, EVENT, b'data: {"error":{"message":"gone"}}\n\n')

    async with server(wrong) as url:
        before = await ask_one(url)
    async with server(lost) as url:
        within = await ask_one(url)
    assert (before.ending, before.status) == (Ending.ERROR, 400)
    assert "no such model" in before.error
    assert (within.ending, within.status, within.num_events) == (Ending.ERROR, 200, 1)
    assert within.ttft_s is None


async def test_broken_streams_are_told_from_complete_ones() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        return await stream(request, EVENT)

    async def nonsense(request: web.Request) -> web.StreamResponse:
        return await stream(request, b"data: <html>\n\n", DONE)

    async def torn(request: web.Request) -> web.StreamResponse:
        response = await stream(request, EVENT)
        assert request.transport is not None
        request.transport.abort()
        return response

    for handler in (short, nonsense, torn):
        async with server(handler) as url:
            outcome = await ask_one(url)
        assert outcome.ending is Ending.BROKEN
        assert outcome.error
    nobody = await ask_one("http://127.0.0.1:9")
    assert (nobody.ending, nobody.status) == (Ending.BROKEN, None)


async def test_a_request_that_hangs_ends() -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = await stream(request, EVENT)
        await asyncio.sleep(30)
        return response

    async with server(hang) as url:
        outcome = await ask_one(url, timeout_s=0.2)
    assert (outcome.ending, outcome.num_events) == (Ending.TIMED_OUT, 1)


async def test_too_many_failures_give_the_run_up() -> None:
    async with LoadClient(target("http://127.0.0.1:9")) as client, asyncio.timeout(10):
        outcomes = await client.open_loop(arrivals(50, gap_s=1.0), RunOptions(max_failures=0))
    assert outcomes[0].ending is Ending.BROKEN
    assert {one.ending for one in outcomes[1:]} == {Ending.ABORTED}
