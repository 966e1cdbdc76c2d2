"""The streaming benchmark's own parts: what it feeds is what clients get, and it counts right."""

from __future__ import annotations

import asyncio
import os

from rondo_bench.control.cluster import control_plane
from rondo_bench.control.measure import closed_loop, idle, open_loop
from rondo_bench.load.server_process import python_server
from rondo_bench.streaming.cpu import cpu_s
from rondo_bench.streaming.gateway import gateway, run_gateway
from rondo_bench.streaming.measure import Load
from rondo_bench.streaming.others import Other, run_other


async def test_a_gateway_streams_every_token_it_is_fed() -> None:
    async with asyncio.timeout(60), gateway(0, 0) as ours:
        one = await run_gateway(ours, Load(num_streams=6, output_tokens=20))
        many = Load(num_streams=6, output_tokens=40, tokens_a_step=16, chat=False)
        bundled = await run_gateway(ours, many)
    assert one.num_tokens == 6 * 20
    assert one.num_events >= one.num_tokens  # one event each, and those around them
    assert bundled.num_tokens == 6 * 40
    assert bundled.num_events < bundled.num_tokens / 2
    assert one.cpu_s > 0
    assert bundled.wall_s > 0


async def test_another_server_is_measured_by_the_same_client() -> None:
    async with asyncio.timeout(30), python_server("rondo_bench.load.sse_server") as server:
        other = Other(server.url, "m", (server.pid,))
        for chat in (True, False):
            found = await run_other(other, Load(num_streams=3, output_tokens=50, chat=chat))
            assert found.num_tokens == 150
            assert 150 < found.num_events <= 150 + 3 * 4


async def test_emulated_instances_answer_grants() -> None:
    async with asyncio.timeout(60), control_plane(3) as control:
        offered = await open_loop(control, 40.0, 0.5, seed=1)
        most = await closed_loop(control, 4, 0.5, seed=1)
        quiet = await idle(control, 0.5)
    assert 0 < offered.p50_s <= offered.p99_s
    assert most.per_s > 0
    assert quiet.messages_per_s > 0  # instances say that they live


def test_processor_time_is_that_of_the_process() -> None:
    before = cpu_s([os.getpid()])
    sum(i * i for i in range(300_000))
    assert 0.001 < cpu_s([os.getpid()]) - before < 60
