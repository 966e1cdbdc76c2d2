"""What the load client itself can do: against a trivial server in another process.

Two loads. Short requests show what one costs; long streams with one event a read show what a token
costs, which is the dear case: where events come faster, several are read at once. The limit is what
one core of the client would do; it is a property of the machine, so it is measured on each.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rondo_bench.load.client import LoadClient, Target
from rondo_bench.load.prompts import BodyShape
from rondo_bench.load.server_process import python_server
from rondo_bench.machine import machine, span, versions
from rondo_bench.sim.records import Arrival

ROUNDS = 5
PACE_S = 0.01
NOTES = """\
CPU is that of the client's process alone, and the limit one over it: what one core of the client
does when nothing else needs that core. A run that comes near a limit measures the client and not
the server; `late_s` of every summary says how late requests left.""".splitlines()


@dataclass(frozen=True, slots=True)
class Cost:
    """One round. `unit` is what is counted: requests of one token, or tokens."""

    unit: str
    per_s: float
    cpu_us: float

    @property
    def limit_per_s(self) -> float:
        """Of one core."""
        return 1e6 / self.cpu_us


async def run_self_test(rounds: int = ROUNDS) -> tuple[str, dict[str, Any]]:
    """The report as Markdown, and its figures."""
    short: list[Cost] = []
    streams: list[Cost] = []
    bursts: list[Cost] = []
    server = "rondo_bench.load.sse_server"
    async with (
        python_server(server) as fast,
        python_server(server, ["--pace-s", str(PACE_S)]) as paced,
    ):
        for _ in range(rounds):
            short.append(await _measure(fast.url, "requests", 1000, 1, 16))
            streams.append(await _measure(paced.url, "tokens", 128, 100, 128))
            bursts.append(await _measure(fast.url, "tokens", 128, 1000, 16))
    cases = {
        "requests of one token, 16 at a time": short,
        f"tokens, 128 streams, one each {PACE_S * 1e3:g} ms": streams,
        "tokens, 16 streams, as fast as they come": bursts,
    }
    return _report(cases, rounds), {
        name: [asdict(cost) | {"limit_per_s": cost.limit_per_s} for cost in costs]
        for name, costs in cases.items()
    }


async def _measure(
    url: str, unit: str, num_requests: int, output_tokens: int, concurrency: int
) -> Cost:
    arrivals = [
        Arrival(request_id=f"r{i}", at_s=0.0, prompt_tokens=64, output_tokens=output_tokens)
        for i in range(num_requests)
    ]
    async with LoadClient(Target(base_url=url, shape=BodyShape(model="m"))) as client:
        await client.closed_loop(arrivals[:concurrency], concurrency)
        began_s, cpu_s = time.monotonic(), time.process_time()
        outcomes = await client.closed_loop(arrivals, concurrency)
        wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    tokens = sum(one.num_tokens for one in outcomes if one.completed)
    assert tokens == num_requests * output_tokens  # our own server; anything else is a mistake
    count = num_requests if unit == "requests" else tokens
    return Cost(unit, count / wall_s, cpu_s / count * 1e6)


def _report(cases: dict[str, list[Cost]], rounds: int) -> str:
    rows = [
        f"| {name} | {median(c.per_s for c in costs):,.0f} | {span([c.cpu_us for c in costs])} | "
        f"{median(c.limit_per_s for c in costs):,.0f} |"
        for name, costs in cases.items()
    ]
    return "\n".join(
        [
            "# The load client itself",
            "",
            f"`rondo-bench load --self-test`; {machine()}; {versions('aiohttp', 'uvloop')}; "
            f"medians of {rounds} rounds in turns, with least and greatest.",
            "",
            "| load | a second | CPU each, µs | limit of one core, a second |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            *NOTES,
        ]
    )
