"""Options of rondo-bench load, and what they mean as a target and a workload."""

from __future__ import annotations

import argparse

import numpy as np

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_bench.load.client import Target
from rondo_bench.load.prompts import BodyShape
from rondo_bench.sim.arrivals import RateCurve, constant_arrivals, curve_arrivals
from rondo_bench.sim.options import workload_of
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.workload import WorkloadSpec, make_workload

#: Requests of a run where neither an option nor a trace says how many.
DEFAULT_REQUESTS = 200
#: Streams of a seed for drawn lengths; files draw from the simulator's own.
_LENGTHS, _ARRIVALS = 10, 11


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of them; names that `simulate` has mean the same."""
    add = parser.add_argument
    add("--base-url", metavar="URL", help="of an OpenAI-compatible server")
    add(
        "--replica",
        action="append",
        default=[],
        metavar="URL",
        help="a further server like it: requests go to the one with the fewest under way",
    )
    add("--model", metavar="NAME", help="as the server calls it")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--lengths", metavar="CSV", help="prompt and answer lengths to draw from")
    source.add_argument("--trace", metavar="CSV|JSONL", help="requests to replay")
    source.add_argument(
        "--tokens", metavar="IN:OUT[:CV]", help="mean lengths; CV spreads both as a Gamma law"
    )
    add("--rate", type=float, default=None, metavar="R", help="requests per second; scales a trace")
    add("--cv", type=float, default=1.0, metavar="C", help="of arrival gaps; 1 is Poisson")
    add("--ramp", default=None, metavar="AT:RATE,...", help="a rate that changes: its corners")
    add("--concurrency", type=int, default=None, metavar="N", help="closed loop of N clients")
    add("--requests", type=int, default=None, metavar="K")
    add("--seed", type=int, default=0, metavar="S")
    add("--ttft-s", type=float, default=5.0, metavar="X")
    add("--tpot-s", type=float, default=0.1, metavar="Y")
    add("--warm-up", type=int, default=0, metavar="N", help="requests before those that count")
    add("--max-errors", type=int, default=20, metavar="N", help="failures that end the run")
    add("--timeout-s", type=float, default=600.0, metavar="X", help="of one request")
    add_shape_options(parser)


def add_shape_options(parser: argparse.ArgumentParser) -> None:
    """How requests are spelled."""
    add = parser.add_argument_group("requests").add_argument
    add("--chat", action="store_true", help="chat completions instead of completions")
    add("--text", action="store_true", help="completions with text instead of token ids")
    add("--ids", default="16:255", metavar="FIRST:LAST", help="token ids of random prompts")
    add("--plain", action="store_true", help="send OpenAI's own fields only: no ignore_eos")
    add("--send-slo", action="store_true", help="send the objectives along; Rondo reads them")
    add("--api-key", default=None, metavar="KEY")


def target_of(args: argparse.Namespace) -> Target:
    """Where requests go.

    Raises:
        ConfigError: an option is missing or out of range; names it.
    """
    for name in ("base_url", "model"):
        if not getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')}", "must be given")
    if not args.timeout_s > 0:
        raise ConfigError("--timeout-s", f"must be above 0, not {args.timeout_s:g}")
    first, last = _numbers("--ids", args.ids, 2, 2)
    if not 0 <= first <= last:
        raise ConfigError("--ids", f"{args.ids} is no range of token ids")
    shape = BodyShape(
        model=args.model,
        chat=args.chat,
        as_text=args.text,
        first_id=int(first),
        last_id=int(last),
        extensions=not args.plain,
        send_slo=args.send_slo,
    )
    return Target(
        base_url=args.base_url,
        shape=shape,
        slo=slo_of(args),
        timeout_s=args.timeout_s,
        api_key=args.api_key,
        replicas=tuple(args.replica),
    )


def slo_of(args: argparse.Namespace) -> Slo:
    """The objectives. ConfigError when one is not above 0."""
    for name in ("ttft_s", "tpot_s"):
        if not getattr(args, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')}", "must be above 0")
    return Slo(ttft_s=args.ttft_s, tpot_s=args.tpot_s)


def arrivals_of(args: argparse.Namespace, seed: int, rate: float | None) -> list[Arrival]:
    """The requests of one run, in order of time.

    Raises:
        ConfigError: an option is missing or out of range, or a file is unusable.
    """
    if args.concurrency is not None and rate is None:
        rate = 1.0  # times do not count in a closed loop
    if args.requests is None and not args.trace and not args.ramp:
        args.requests = DEFAULT_REQUESTS
    curve = ramp_of(args.ramp) if args.ramp else None
    if args.tokens:
        return _drawn(args, seed, rate, curve)
    if curve is None:
        return make_workload(workload_of(args, seed, rate))
    spec = WorkloadSpec(
        lengths=args.lengths,
        trace=args.trace,
        rate=rate,
        cv=args.cv,
        num_requests=args.requests,
        seed=seed,
        curve=curve,
    )
    return make_workload(spec)


def ramp_of(text: str) -> RateCurve:
    """A curve from its corners, e.g. 0:1,60:8,120:1."""
    corners = [_numbers("--ramp", corner, 2, 2) for corner in text.split(",")]
    return RateCurve(points=tuple((at_s, rate) for at_s, rate in corners))


def _drawn(
    args: argparse.Namespace, seed: int, rate: float | None, curve: RateCurve | None
) -> list[Arrival]:
    """Lengths from a law instead of a file."""
    prompt, output, *cv = _numbers("--tokens", args.tokens, 2, 3)
    if prompt < 1 or output < 1:
        raise ConfigError("--tokens", f"{args.tokens}: lengths are at least 1")
    rng = np.random.default_rng([seed, _ARRIVALS])
    if curve is not None:
        curve = curve if rate is None else curve.at_mean_rate(rate)
        at_s = curve_arrivals(rng, curve, args.cv)[: args.requests]
    elif rate is None or args.requests is None or args.requests < 1:
        raise ConfigError("--rate", "needed with --tokens, and --requests of 1 or more")
    else:
        at_s = constant_arrivals(rng, args.requests, rate, args.cv)
    lengths = np.random.default_rng([seed, _LENGTHS])
    columns = [
        np.maximum(1, np.rint(_gamma(lengths, mean, cv[0] if cv else 0.0, len(at_s))))
        for mean in (prompt, output)
    ]
    return [
        Arrival(request_id=f"r{i}", at_s=at, prompt_tokens=int(p), output_tokens=int(o))
        for i, (at, p, o) in enumerate(zip(at_s.tolist(), *columns, strict=True))
    ]


def _gamma(rng: np.random.Generator, mean: float, cv: float, count: int) -> np.ndarray:
    if cv <= 0:
        return np.full(count, mean)
    return rng.gamma(1 / cv**2, mean * cv**2, size=count)


def _numbers(option: str, text: str, least: int, most: int) -> list[float]:
    try:
        values = [float(part) for part in text.split(":")]
    except ValueError:
        values = []
    if not least <= len(values) <= most:
        raise ConfigError(option, f"{text!r} is not as it should be")
    return values
