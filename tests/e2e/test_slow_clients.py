"""Clients that hardly read: nobody else notices, and the gateway keeps their answers at most."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rondo_bench.chaos.asks import VOCAB_SIZE, Ask, Kind
from rondo_bench.chaos.load import Ending, Service, run_clients
from rondo_bench.chaos.slow_clients import LONG_CHOICES, LONG_TOKENS, long_body, read_slowly
from rondo_bench.workload import spread_lengths
from tests.support.cluster import Cluster, eventually

MODEL = "rondo-tiny"
NUM_SLOW = 10


def gateway_rss_mib(cluster: Cluster) -> float:
    status = Path(f"/proc/{cluster.pid('rondo_gateway')}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def test_ten_clients_that_read_a_byte_a_second_stop_nobody(
    emulated_cluster: Cluster,
) -> None:
    service = Service(emulated_cluster.url, MODEL, 60.0)
    items = spread_lengths(60, 30, 40, VOCAB_SIZE, seed=1)
    asks = [Ask(item, Kind.STREAM, index) for index, item in enumerate(items)]

    async def ask_all() -> list[str]:
        outcomes = await run_clients(service, asks, 10, lambda count: count < len(asks))
        assert {one.ending for one in outcomes} == {Ending.COMPLETED}
        assert [one.num_tokens for one in outcomes] == [item.output_tokens for item in items]
        return [one.texts[0] for one in outcomes]

    expected = await ask_all()
    before_mib = gateway_rss_mib(emulated_cluster)
    begun = [asyncio.Event() for _ in range(NUM_SLOW)]
    slow = [
        asyncio.create_task(read_slowly(emulated_cluster.url, long_body(MODEL, index), 1.0, event))
        for index, event in enumerate(begun)
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*(event.wait() for event in begun))
    assert await ask_all() == expected

    def engines_are_free() -> bool:
        macro = emulated_cluster.status()
        return all(one["kv"]["used_blocks"] == 0 for one in macro["instances"])

    await asyncio.to_thread(eventually, engines_are_free, "the slow ones' answers are computed")
    grown_mib = gateway_rss_mib(emulated_cluster) - before_mib
    tokens = NUM_SLOW * LONG_CHOICES * LONG_TOKENS
    assert grown_mib < 16 + tokens * 300 / 2**20, f"{grown_mib:.1f} MiB for {tokens} tokens"
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    await asyncio.to_thread(
        eventually,
        lambda: emulated_cluster.metric("gateway", "rondo_live_answers") == 0,
        "their answers are forgotten",
    )
