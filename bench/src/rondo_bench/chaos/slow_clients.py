"""What clients that hardly read do to those that do: rondo-bench slow-clients.

Each round asks for the same long answers twice: read at once, and read at a byte a second. What is
measured is the time between tokens of ordinary clients beside them; so only the reading differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import uvloop

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo.local.run_dir import read_state
from rondo.metrics.lifecycle import percentile
from rondo_bench.chaos.asks import VOCAB_SIZE, Ask, Kind
from rondo_bench.chaos.cluster import PROFILE
from rondo_bench.chaos.load import Ending, Service, run_clients
from rondo_bench.chaos.programs import programs_of
from rondo_bench.local_cluster import local_cluster
from rondo_bench.workload import Item, spread_lengths

#: Some 180 bytes an event and choice: hours of reading. Linux's socket buffers may take it all.
LONG_TOKENS, LONG_CHOICES = 900, 4
#: Small, so that little of an answer is on its way and most of it waits in the gateway.
RECEIVE_BUFFER_BYTES = 2048
BYTE_PERIOD_S = 1.0
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class SlowOptions:
    """Options of `rondo-bench slow-clients`."""

    slow: tuple[int, ...]
    clients: int
    seconds: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch: time between tokens of the ordinary clients, and the gateway's memory."""

    p50_ms: float
    p99_ms: float
    rss_mib: float


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "slow-clients",
        help="what clients that read a byte a second do to the others' time between tokens",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--slow", type=int, nargs="+", default=[1, 10], help="how many of them")
    parser.add_argument("--clients", type=int, default=16, help="ordinary ones")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; 1 when the others' p99 changed by more than 10 %."""
    options = SlowOptions(tuple(args.slow), args.clients, args.seconds, args.rounds)
    if min(*options.slow, options.clients, options.rounds, options.seconds) <= 0:
        raise ConfigError("slow-clients", "every number must be above 0")
    rows = uvloop.run(measure(options))
    if args.json:
        print(json.dumps({"slow_clients": rows}))
    else:
        print("\n".join(map(_line, rows)))
    return 1 if any(row["p99_change_percent"] > 10 for row in rows) else 0


async def measure(options: SlowOptions) -> list[dict[str, Any]]:
    """For each number of slow clients, medians over the rounds."""
    model = find_model(None, weights=False).name
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        profile, run_dir = Path(scratch) / "profile.json", Path(scratch) / "run"
        profile.write_bytes(msgspec.json.encode(PROFILE))
        line = ["--engine", "emulated", "--workers", "2", "--profile", str(profile)]
        async with local_cluster(run_dir, line, {}) as url:
            bench = _Bench(run_dir, Service(url, model, TIMEOUT_S), options)
            await bench.stretch(1, byte_period_s=0.0)  # what is allocated once is allocated now
            for count in options.slow:
                pairs = [
                    (await bench.stretch(count, 0.0), await bench.stretch(count, BYTE_PERIOD_S))
                    for _ in range(options.rounds)
                ]
                rows.append(_row(count, pairs))
    return rows


class _Bench:
    """Stretches of load on one cluster."""

    def __init__(self, run_dir: Path, service: Service, options: SlowOptions) -> None:
        self._run_dir = run_dir
        self._service = service
        self._options = options
        items = spread_lengths(64, 40, 150, VOCAB_SIZE, 1)
        self._asks = [Ask(item, Kind.STREAM, index) for index, item in enumerate(items)]

    async def stretch(self, num_long: int, byte_period_s: float) -> Sample:
        """Ordinary clients beside long answers that are read at some speed.

        Args:
            byte_period_s: from one byte of a long answer to the next; 0 reads at once.
        """
        async with self._readers(num_long, byte_period_s):
            until_s = time.monotonic() + self._options.seconds
            outcomes = await run_clients(
                self._service,
                self._asks,
                self._options.clients,
                lambda _: time.monotonic() < until_s,
            )
            rss_mib = _rss_mib(programs_of((read_state(self._run_dir).pid,), "gateway"))
        failed = [one.error for one in outcomes if one.ending is not Ending.COMPLETED]
        if failed:
            raise ConfigError("slow-clients", f"{len(failed)} answers failed: {failed[0]}")
        gaps_ms = [gap_s * 1e3 for one in outcomes for gap_s in one.gaps_s]
        return Sample(percentile(gaps_ms, 0.5), percentile(gaps_ms, 0.99), rss_mib)

    @asynccontextmanager
    async def _readers(self, count: int, byte_period_s: float) -> AsyncIterator[None]:
        """Readers of long answers, which have begun; closed afterwards."""
        url = self._service.url
        begun = [asyncio.Event() for _ in range(count)]
        tasks = [
            asyncio.create_task(
                read_slowly(url, long_body(self._service.model, index), byte_period_s, event)
            )
            for index, event in enumerate(begun)
        ]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.gather(*(event.wait() for event in begun))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def read_slowly(
    url: str, body: dict[str, Any], byte_period_s: float, begun: asyncio.Event
) -> None:
    """Asks, and reads until cancelled or the end; `begun` is set by the first bytes.

    Args:
        byte_period_s: from one byte to the next; 0 reads at once.
    """
    loop = asyncio.get_running_loop()
    host, _, port = url.rpartition("//")[2].partition(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with contextlib.closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setblocking(False)
        await loop.sock_connect(connection, (host, int(port)))
        await loop.sock_sendall(connection, f"{head}content-length: {len(data)}\r\n\r\n".encode())
        await loop.sock_sendall(connection, data)
        while await loop.sock_recv(connection, 1 if byte_period_s else 65536):
            begun.set()
            await asyncio.sleep(byte_period_s)


def long_body(model: str, index: int) -> dict[str, Any]:
    """Asks for LONG_CHOICES answers of LONG_TOKENS tokens each."""
    item = Item(f"long-{index}", tuple(range(20, 60)), LONG_TOKENS)
    body = Ask(item, Kind.STREAM, index).body(model)
    return {**body, "n": LONG_CHOICES}


def _row(count: int, pairs: Sequence[tuple[Sample, Sample]]) -> dict[str, Any]:
    fast, slow = zip(*pairs, strict=True)
    before_ms = median(one.p99_ms for one in fast)
    after_ms = median(one.p99_ms for one in slow)
    return {
        "slow_clients": count,
        "p50_ms_without": round(median(one.p50_ms for one in fast), 2),
        "p50_ms_with": round(median(one.p50_ms for one in slow), 2),
        "p99_ms_without": round(before_ms, 2),
        "p99_ms_with": round(after_ms, 2),
        "p99_change_percent": round((after_ms / before_ms - 1) * 100, 1),
        "gateway_mib_without": round(median(one.rss_mib for one in fast), 1),
        "gateway_mib_with": round(median(one.rss_mib for one in slow), 1),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['slow_clients']} reading a byte a second: others' p99 between tokens "
        f"{row['p99_ms_without']} -> {row['p99_ms_with']} ms ({row['p99_change_percent']:+} %), "
        f"p50 {row['p50_ms_without']} -> {row['p50_ms_with']} ms; gateway "
        f"{row['gateway_mib_without']} -> {row['gateway_mib_with']} MiB"
    )


def _rss_mib(pids: Sequence[int]) -> float:
    """Resident memory of programs together."""
    total_kib = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total_kib += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return total_kib / 1024
