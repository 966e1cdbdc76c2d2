"""Two hundred streams at once over four emulated workers: every token once, in order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from tokenizers import Tokenizer

from rondo.local.model_folder import find_model
from rondo.perf.profile import LatencyProfile
from rondo_worker.engines.emulated import EmulatedEngine
from tests.support.cluster import Cluster, eventually
from tests.support.drive import Driver, request

NUM_STREAMS = 200
MODEL = "rondo-tiny"


@dataclass(frozen=True)
class Ask:
    """One stream's prompt and length."""

    prompt: list[int]
    num_tokens: int


def asks() -> list[Ask]:
    """Prompts of different lengths, none like another."""
    return [
        Ask([20 + index % 60, 20 + index // 60, *range(20, 24 + index % 40)], 10 + index % 50)
        for index in range(NUM_STREAMS)
    ]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What the emulated engine answers, computed in this process without its waits."""
    at_once = LatencyProfile(
        name="at once",
        source="made up",
        prefill_floor_ms=(0, 0),
        prefill_line_ms=(0, 0),
        prefill_attn_ms=(0, 0, 0),
        decode_ms=(0, 0, 0),
    )
    folder = find_model(None, weights=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    driver = Driver(EmulatedEngine.from_model(folder, at_once))
    for index, ask in enumerate(asks()):
        driver.submit(request(f"r{index}", ask.prompt, ask.num_tokens))
    driver.run()
    return [tokenizer.decode(driver.answers[f"r{index}"]) for index in range(NUM_STREAMS)]


async def stream(session: aiohttp.ClientSession, url: str, ask: Ask) -> tuple[str, int, int]:
    """Text, tokens as counted by the server, and number of pieces."""
    body = {
        "model": MODEL,
        "prompt": ask.prompt,
        "max_tokens": ask.num_tokens,
        "ignore_eos": True,
        "slo": {"ttft_ms": 30_000, "tpot_ms": 100},  # nobody is refused
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, num_tokens, num_pieces = "", 0, 0
    async with session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    assert lines.pop() == b"data: [DONE]\n"
    for line in lines:
        chunk = json.loads(line[6:])
        if chunk.get("usage"):
            num_tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            text += choice["text"]
            num_pieces += bool(choice["text"])
    return text, num_tokens, num_pieces


async def round_of_streams(url: str) -> list[tuple[str, int, int]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(*(stream(session, url, ask) for ask in asks()))


def gateway_rss_mib(cluster: Cluster) -> float:
    status = Path(f"/proc/{cluster.pid('rondo_gateway')}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def test_every_token_arrives_once_and_in_order(
    emulated_cluster: Cluster, expected: list[str]
) -> None:
    results = await round_of_streams(emulated_cluster.url)
    assert [text for text, _, _ in results] == expected
    assert [count for _, count, _ in results] == [ask.num_tokens for ask in asks()]
    used = {
        instance["instance_id"]: instance["turn"]
        for instance in emulated_cluster.status()["instances"]
    }
    assert all(turn > 0 for turn in used.values()), used


async def test_nothing_is_kept_afterwards(emulated_cluster: Cluster) -> None:
    await round_of_streams(emulated_cluster.url)  # what is allocated once is allocated now
    before = gateway_rss_mib(emulated_cluster)
    for _ in range(3):
        await round_of_streams(emulated_cluster.url)
    grown_mib = gateway_rss_mib(emulated_cluster) - before
    assert grown_mib < 8, f"{grown_mib:.1f} MiB more after {3 * NUM_STREAMS} streams"
    assert emulated_cluster.metric("gateway", "rondo_live_answers") == 0

    def idle() -> bool:
        macro = emulated_cluster.status()
        return macro["num_pending"] == 0 and all(
            instance["num_running"] == instance["num_waiting"] == 0
            and instance["kv"]["used_blocks"] == 0
            for instance in macro["instances"]
        )

    eventually(idle, "all instances are empty")


async def test_one_message_a_step_and_gateway_carries_the_tokens(
    emulated_cluster: Cluster,
) -> None:
    workers = [f"worker-{index}" for index in range(4)]

    def counts() -> tuple[float, float, float]:
        steps = sum(emulated_cluster.metric(w, "rondo_step_seconds_count") for w in workers)
        frames = emulated_cluster.metric("gateway", "rondo_token_frames_total")
        tokens = emulated_cluster.metric("gateway", "rondo_generation_tokens_total")
        return steps, frames, tokens

    before = counts()
    await round_of_streams(emulated_cluster.url)
    steps, frames, tokens = (b - a for a, b in zip(before, counts(), strict=True))
    assert tokens == sum(ask.num_tokens for ask in asks())
    assert frames <= steps
    assert frames < tokens / 5
