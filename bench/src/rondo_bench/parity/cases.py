"""What is compared: the policy, the instances, and the workloads both sides are offered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rondo.perf.profile import LatencyProfile
from rondo.types import Slo
from rondo_bench.offered import poisson_of
from rondo_bench.sim.records import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload at one rate.

    Args:
        lengths: name of a length file.
        rate: requests per second, Poisson.
        duration_s: about how long the arrivals last.
        slo: what every request asks for.
    """

    name: str
    lengths: str
    rate: float
    duration_s: float
    slo: Slo

    def arrivals(self, folder: Path, max_model_len: int, seed: int) -> list[Arrival]:
        """The requests of a seed that fit `max_model_len`; prompts too long for it are cut.

        Raises:
            ConfigError: the length file is not there.
        """
        arrivals = poisson_of(
            folder, self.lengths, rate=self.rate, duration_s=self.duration_s, seed=seed
        )
        return [fitting(arrival, max_model_len) for arrival in arrivals]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What both sides consist of. `profile_name` is a built-in name or a file."""

    policy: str
    profile_name: str
    profile: LatencyProfile
    num_instances: int
    max_model_len: int


#: Rates at which gateway and client need about a core between them, whatever the instances could.
CASES: Sequence[Case] = (
    Case(
        name="short",
        lengths="ecoserve_matched_sharegpt_20k.csv.gz",
        rate=4.0,
        duration_s=40.0,
        slo=Slo(ttft_s=1.0, tpot_s=0.05),
    ),
    Case(
        name="long",
        lengths="ecoserve_matched_longbench_20k.csv.gz",
        rate=3.5,
        duration_s=40.0,
        slo=Slo(ttft_s=2.0, tpot_s=0.06),
    ),
)


def fitting(arrival: Arrival, max_model_len: int) -> Arrival:
    """The request within the model's length: its answer is cut to half of that at most."""
    output = min(arrival.output_tokens, max_model_len // 2)
    prompt = min(arrival.prompt_tokens, max_model_len - output)
    return msgspec.structs.replace(arrival, prompt_tokens=prompt, output_tokens=output)
