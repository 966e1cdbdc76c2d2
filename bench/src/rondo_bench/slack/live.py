"""The same on a live cluster of emulated instances: online requests with and without a batch."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from rondo.errors import ConfigError, PeerError
from rondo.types import Slo
from rondo_bench.console import say
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.outcomes import Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.local_cluster import local_cluster
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.workload import WorkloadSpec, make_workload
from rondo_bench.slack.report import Pair, longer, percentile_ms
from rondo_bench.slack.trial import BACKLOG_SEED

MODEL = "rondo-tiny"
#: Of a prompt with its answer: what rondo-tiny takes, whose tokenizer the emulated workers have.
LONGEST_TOKENS = 1024
POLL_S = 0.2
#: A batch has begun, or is over, within this time.
WAIT_S = 60.0
OVER = ("completed", "failed", "cancelled", "expired")


@dataclass(slots=True)
class LiveRow:
    """One rate, all rounds pooled; the lists are (without, beside the batch)."""

    share: float
    rate: float
    slo: Slo
    online: tuple[list[Outcome], list[Outcome]] = field(default_factory=lambda: ([], []))
    answer_tokens: int = 0
    num_lines: int = 0
    window_s: float = 0.0

    def ms(self, name: str, quantile: float) -> Pair:
        """A percentile of `ttft_s` or `tpot_s` of each side, in ms."""
        without, beside = (
            [v for one in side if (v := getattr(one, name)) is not None] for side in self.online
        )
        return percentile_ms(without, beside, quantile)

    @property
    def longer(self) -> float:
        """Of the p99 TPOT; see `slack.report.longer`."""
        return longer(self.ms("tpot_s", 0.99))

    def as_json(self) -> dict[str, object]:
        """The figures, pairs as (without, beside)."""
        return {
            "share": self.share,
            "rate": self.rate,
            "tpot_p50_ms": self.ms("tpot_s", 0.5),
            "tpot_p99_ms": self.ms("tpot_s", 0.99),
            "ttft_p99_ms": self.ms("ttft_s", 0.99),
            "attainment": [
                sum(one.meets(self.slo) for one in side) / len(side) for side in self.online
            ],
            "p99_tpot_longer": self.longer,
            "answer_tokens_per_s": self.answer_tokens / self.window_s,
            "lines_per_s": self.num_lines / self.window_s,
        }


def run_live(args: argparse.Namespace) -> int:
    """`rondo-bench slack --live`: JSON on stdout, progress on stderr."""
    if args.goodput is None:
        raise ConfigError("--goodput", "must be given with --live: rates are shares of it")
    rows = uvloop.run(_rows(args))
    print(json.dumps({"goodput_rps": args.goodput, "rows": [row.as_json() for row in rows]}))
    return 0


async def _rows(args: argparse.Namespace) -> list[LiveRow]:
    options = ["--engine", "emulated", "--workers", str(args.instances), "--profile", args.profile]
    env = {
        "RONDO_POLICY": args.policy,
        "RONDO_SLO_TTFT_MS": str(1e3 * args.ttft_s),
        "RONDO_SLO_TPOT_MS": str(1e3 * args.tpot_s),
    }
    slo = Slo(ttft_s=args.ttft_s, tpot_s=args.tpot_s)
    rows = [LiveRow(share, share * args.goodput, slo) for share in args.shares]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            local_cluster(Path(folder), options, env) as url,
            LoadClient(Target(base_url=url, shape=BodyShape(model=MODEL), slo=slo)) as client,
            aiohttp.ClientSession(url) as session,
        ):
            for seed in range(args.seeds):
                for row in rows:
                    for beside in (False, True) if seed % 2 else (True, False):
                        await _one(args, row, seed, client, session if beside else None)
                    say(f"{row.rate:.2f}/s, round {seed + 1}: {row.longer:+.1%}")
    return rows


async def _one(
    args: argparse.Namespace,
    row: LiveRow,
    seed: int,
    client: LoadClient,
    session: aiohttp.ClientSession | None,
) -> None:
    """One run of online requests; with a session, beside a batch."""
    online = _arrivals(args, args.requests, row.rate, seed)
    if session is None:
        row.online[0].extend(await client.open_loop(online, RunOptions(seed=seed)))
        return
    batch = await _submit(session, _arrivals(args, args.lines, 1.0, BACKLOG_SEED + seed))
    row.online[1].extend(await client.open_loop(online, RunOptions(seed=seed)))
    row.window_s += online[-1].at_s
    await session.post(f"/v1/batches/{batch}/cancel")
    found = await _poll(session, batch, OVER)
    if not found["output_file_id"]:
        return
    async with session.get(f"/v1/files/{found['output_file_id']}/content") as response:
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    row.num_lines += len(lines)
    row.answer_tokens += sum(
        line["response"]["body"]["usage"]["completion_tokens"] for line in lines
    )


def _arrivals(args: argparse.Namespace, count: int, rate: float, seed: int) -> list[Arrival]:
    spec = WorkloadSpec(lengths=args.lengths, rate=rate, num_requests=count, seed=seed)
    found = make_workload(spec)
    return [one for one in found if one.prompt_tokens + one.output_tokens <= LONGEST_TOKENS]


async def _submit(session: aiohttp.ClientSession, arrivals: Sequence[Arrival]) -> str:
    """A batch of these lengths that has begun; its id."""
    lines = [
        {
            "custom_id": one.request_id,
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "model": MODEL,
                "prompt": [16 + number % 200] * one.prompt_tokens,
                "max_tokens": one.output_tokens,
                "ignore_eos": True,
            },
        }
        for number, one in enumerate(arrivals)
    ]
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    content = "\n".join(json.dumps(line) for line in lines)
    form.add_field("file", content.encode(), filename="lines.jsonl")
    async with session.post("/v1/files", data=form) as response:
        file_id = (await response.json())["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/completions", "completion_window": "24h"}
    async with session.post("/v1/batches", json=asked) as response:
        batch: str = (await response.json())["id"]
    await _poll(session, batch, ("in_progress",))
    return batch


async def _poll(
    session: aiohttp.ClientSession, batch: str, statuses: Sequence[str]
) -> dict[str, Any]:
    """The batch as it is when it has come to one of these."""
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    while asyncio.get_running_loop().time() < deadline_s:
        async with session.get(f"/v1/batches/{batch}") as response:
            found: dict[str, Any] = await response.json()
        if found["status"] in statuses:
            return found
        await asyncio.sleep(POLL_S)
    raise PeerError(f"batch {batch} is still {found['status']} after {WAIT_S:g} s")
