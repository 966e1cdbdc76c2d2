"""What HTTP, the bus and the services add to the engine's own latency.

Both sides run the same engine under the same instance scheduler on the same prompts, in turns, in
one program: directly in this process, and behind a cluster of one worker, with a client in this
process. Quoted are medians over the rounds; "added" is the difference of those medians.
"""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from rondo.local.model_folder import find_model
from rondo.metrics.lifecycle import Lifecycle, percentile
from rondo.perf.profile import LatencyProfile
from rondo_bench.direct import run_direct
from rondo_bench.http_client import run_http
from rondo_bench.local_cluster import local_cluster
from rondo_bench.workload import Item, spread_lengths
from rondo_worker.engines.base import Engine

#: Steps of an emulated GPU that leave the machine idle most of the time.
PROFILE = LatencyProfile(
    name="latency-bench",
    source="made up: 10 ms prefill, 10 ms decode",
    prefill_floor_ms=(10.0, 0.0),
    prefill_line_ms=(0.0, 0.0),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(10.0, 0.0, 0.0),
    num_blocks=4096,
)
NOTES = """\
`rondo-bench latency` prints this; `make bench` writes it here.

How to read it: the emulated engine sleeps, so its rows show what the way adds on an otherwise idle
machine. The torch engine computes, and shares the cores with client, gateway, nats-server and
coordinator, so its rows also show that competition: with few cores it is most of what is added
between tokens. At 16 concurrent a request in process arrives exactly between two steps; over HTTP
it arrives in the midst of one, waits for its end, and for another's prefill where one is under way.
""".splitlines()
WARMUP_REQUESTS = 16
THREADS = 1


@dataclass(frozen=True, slots=True)
class LatencyOptions:
    """Options of `rondo-bench latency`."""

    engines: tuple[str, ...]
    concurrency: tuple[int, ...]
    num_requests: int
    num_rounds: int
    prompt_tokens: int
    output_tokens: int
    model: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds of one round."""

    ttft_p50: float
    ttft_p99: float
    gap_p50: float
    gap_p99: float


async def run_latency(options: LatencyOptions) -> str:
    """Runs everything; the report as Markdown."""
    lines = [
        "# Added latency",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{options.num_rounds} rounds of {options.num_requests} requests each, "
        f"{options.prompt_tokens} tokens in, {options.output_tokens} out on average; medians of "
        "the rounds, in ms.",
        "",
        "| engine | concurrent | side | TTFT p50 | TTFT p99 | between tokens p50 | p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine in options.engines:
        lines += await _compare(engine, options)
    return "\n".join([*lines, "", *NOTES])


async def _compare(kind: str, options: LatencyOptions) -> list[str]:
    folder = find_model(options.model, weights=kind == "torch")
    engine = _load(kind, folder)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile.json"
        profile.write_bytes(msgspec.json.encode(PROFILE))
        command = ["--engine", kind, "--workers", "1", "--model", str(folder)]
        command += ["--profile", str(profile)] if kind == "emulated" else []
        env = {"RONDO_THREADS": str(THREADS)}
        async with local_cluster(Path(scratch) / "run", command, env) as url:
            for concurrency in options.concurrency:
                rounds = await _rounds(engine, url, folder.name, concurrency, options)
                lines += _rows(kind, concurrency, *rounds)
    engine.close()
    return lines


async def _rounds(
    engine: Engine, url: str, model: str, concurrency: int, options: LatencyOptions
) -> tuple[list[Figures], list[Figures]]:
    direct: list[Figures] = []
    served: list[Figures] = []
    warm = _items(engine, options, WARMUP_REQUESTS, seed=0)
    run_direct(engine, warm, concurrency)
    await run_http(url, model, warm, concurrency)
    for number in range(1, options.num_rounds + 1):
        items = _items(engine, options, options.num_requests, seed=number)
        direct.append(_figures(run_direct(engine, items, concurrency)))
        served.append(_figures(await run_http(url, model, items, concurrency)))
    return direct, served


def _items(engine: Engine, options: LatencyOptions, count: int, seed: int) -> list[Item]:
    vocab = engine.spec.vocab_size
    return spread_lengths(count, options.prompt_tokens, options.output_tokens, vocab, seed)


def _figures(times: list[Lifecycle]) -> Figures:
    ttft = [one.ttft_s * 1e3 for one in times if one.ttft_s is not None]
    gaps = [gap_s * 1e3 for one in times for gap_s in one.gaps_s]
    return Figures(
        percentile(ttft, 0.5), percentile(ttft, 0.99), percentile(gaps, 0.5), percentile(gaps, 0.99)
    )


def _rows(kind: str, concurrency: int, direct: list[Figures], served: list[Figures]) -> list[str]:
    sides = {"in process": _medians(direct), "over HTTP": _medians(served)}
    rows = [_row(kind, concurrency, side, values) for side, values in sides.items()]
    added = [b - a for a, b in zip(*sides.values(), strict=True)]
    return [*rows, _row(kind, concurrency, "**added**", added)]


def _medians(rounds: list[Figures]) -> list[float]:
    names = ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99")
    return [median(getattr(figures, name) for figures in rounds) for name in names]


def _row(kind: str, concurrency: int, side: str, values: list[float]) -> str:
    return f"| {kind} | {concurrency} | {side} | " + " | ".join(f"{v:.2f}" for v in values) + " |"


def _load(kind: str, folder: Path) -> Engine:
    from rondo_worker.engines.emulated import EmulatedEngine

    if kind == "emulated":
        return EmulatedEngine.from_model(folder, PROFILE)
    from rondo_worker.engines.torch import TorchEngine  # takes seconds; only where it is needed

    return TorchEngine.load(folder, num_threads=THREADS)
