"""What a run is offered: a list of arrivals, from lengths and a rate, or from a trace.

Three independent random streams follow from a seed: lengths, arrivals, and the spread of a batched
trace. So one seed gives the same requests in the same order at every rate, CV and curve, and for
one CV the same arrival pattern at every rate (common random numbers): two runs that are compared
differ in what is compared. More requests of one seed begin with the fewer.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from rondo.errors import ConfigError
from rondo.types import Slo
from rondo_bench.sim.arrivals import RateCurve, constant_arrivals, curve_arrivals
from rondo_bench.sim.lengths import LengthTable, load_lengths
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.traces import load_trace

FloatArray = NDArray[np.float64]

#: Streams of a seed. Their numbers are part of every published result.
_LENGTHS, _ARRIVALS, _SPREAD = range(3)


class LongPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One request put among the others by hand, e.g. a prompt of 32k tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to offer. Either `lengths` or `trace` names a file (`load_lengths`, `load_trace`).

    Args:
        rate: mean requests per second. With lengths alone it must be given; a trace is replayed at
            its own times, and a curve taken as it is, unless this scales them.
        cv: of the times between arrivals, 1 for Poisson; a trace has its own and ignores it.
        num_requests: how many, long prompts not counted. Must be given with lengths alone; of a
            trace or a curve it takes the first, or all there are.
        slo: objective of each request; None leaves it to the run.
        curve: a rate that changes over time, for lengths only.
        long_prompts: requests on top of all these.
    """

    lengths: str | None = None
    trace: str | None = None
    rate: float | None = None
    cv: float = 1.0
    num_requests: int | None = None
    seed: int = 0
    slo: Slo | None = None
    curve: RateCurve | None = None
    long_prompts: tuple[LongPrompt, ...] = ()

    def __post_init__(self) -> None:
        if (self.lengths is None) == (self.trace is None):
            raise ConfigError("lengths", "give either a length file or a trace")
        if self.trace is not None and self.curve is not None:
            raise ConfigError("curve", "a trace has its own times")
        if self.num_requests is not None and self.num_requests < 1:
            raise ConfigError("requests", f"must be at least 1, not {self.num_requests}")
        if self.seed < 0:
            raise ConfigError("seed", f"must be 0 or more, not {self.seed}")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ConfigError("rate", f"must be above 0, not {self.rate}")
        if self.lengths is not None and self.curve is None:
            for name, value in (("rate", self.rate), ("requests", self.num_requests)):
                if value is None:
                    raise ConfigError(name, "needed with a length file that has no curve")
        for prompt in self.long_prompts:
            if not prompt.at_s >= 0 or prompt.prompt_tokens < 1 or prompt.output_tokens < 1:
                raise ConfigError("long_prompts", f"{prompt} is no request")


def make_workload(spec: WorkloadSpec) -> list[Arrival]:
    """The arrivals of `spec`, in order of time; the same list for the same spec and files.

    Ids are `r0, r1, ...` in order of time, and `long0, ...` for the long prompts, which come after
    another request of the same instant.

    Raises:
        ConfigError: a file is unusable, or the spec has a bad value.
    """
    at_s, table = _from_trace(spec) if spec.trace is not None else _from_lengths(spec)
    predicted = table.predicted_tokens
    columns = (
        at_s.tolist(),
        table.prompt_tokens.tolist(),
        table.output_tokens.tolist(),
        [None] * len(at_s) if predicted is None else predicted.tolist(),
    )
    arrivals = [
        Arrival(
            request_id=f"r{index}",
            at_s=at,
            prompt_tokens=prompt,
            output_tokens=output,
            predicted_tokens=guess,
            slo=spec.slo,
        )
        for index, (at, prompt, output, guess) in enumerate(zip(*columns, strict=True))
    ]
    arrivals += [
        Arrival(
            request_id=f"long{index}",
            at_s=prompt.at_s,
            prompt_tokens=prompt.prompt_tokens,
            output_tokens=prompt.output_tokens,
            slo=spec.slo,
        )
        for index, prompt in enumerate(spec.long_prompts)
    ]
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def _stream(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))


def _from_lengths(spec: WorkloadSpec) -> tuple[FloatArray, LengthTable]:
    """Times, and as many lengths, drawn with replacement from the file."""
    assert spec.lengths is not None
    rng = _stream(spec.seed, _ARRIVALS)
    if spec.curve is None:
        assert spec.rate is not None
        assert spec.num_requests is not None
        at_s = constant_arrivals(rng, spec.num_requests, spec.rate, spec.cv)
    else:
        curve = spec.curve if spec.rate is None else spec.curve.at_mean_rate(spec.rate)
        at_s = curve_arrivals(rng, curve, spec.cv)[: spec.num_requests]
    table = _lengths(spec.lengths)
    return at_s, table.sample(_stream(spec.seed, _LENGTHS), len(at_s))


def _from_trace(spec: WorkloadSpec) -> tuple[FloatArray, LengthTable]:
    """The times and lengths of the first requests of the trace, spread and scaled."""
    assert spec.trace is not None
    trace = load_trace(spec.trace).spread(_stream(spec.seed, _SPREAD))
    if spec.num_requests is not None:
        trace = trace.first(spec.num_requests)
    if spec.rate is not None:
        trace = trace.at_rate(spec.rate)
    return trace.at_s, LengthTable(trace.prompt_tokens, trace.output_tokens)


@lru_cache(maxsize=8)
def _lengths(path: str) -> LengthTable:
    """A search runs many workloads of one file."""
    return load_lengths(path)
