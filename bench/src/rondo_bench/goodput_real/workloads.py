"""The three workloads, made smaller, and objectives that are as tight here as the paper's on L20.

EcoServe (arXiv 2504.18154) serves models of 30 to 72 billion weights on L20 cards, and asks for a
first token within 1, 5 and 15 s and a token each 100 ms. Seconds mean nothing to another engine,
multiples do: of the time that a request of mean lengths takes when it is alone. The multiples come
from the latency profile of CodeLlama-34B on L20, the times of this engine are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rondo.perf.profile import load_profile
from rondo.types import Chunk, Slo
from rondo_bench.experiments.cases import PROFILES, Dataset, dataset
from rondo_bench.offered import poisson_of
from rondo_bench.sim.records import Arrival

#: One of the systems of the paper's figures.
PAPER_PROFILE = PROFILES["codellama-34b", "l20"]


@dataclass(frozen=True, slots=True)
class Workload:
    """A data set of the paper, and its mean lengths in tokens."""

    dataset: Dataset
    prompt_tokens: float
    output_tokens: float

    @property
    def name(self) -> str:
        """The data set's."""
        return self.dataset.name

    @property
    def lengths(self) -> str:
        """Its file here."""
        return self.dataset.file

    @property
    def paper(self) -> Slo:
        """The paper's objectives."""
        return self.dataset.slo

    def unloaded_there(self) -> tuple[float, float]:
        """Seconds of its mean request alone on L20: prefill, and one decode step halfway."""
        profile = load_profile(PAPER_PROFILE)
        prompt = round(self.prompt_tokens)
        halfway = round(self.prompt_tokens + self.output_tokens / 2)
        return profile.prefill_s([Chunk(prompt, 0)]), profile.decode_s(1, halfway)

    def multiples(self) -> tuple[float, float]:
        """The paper's limits over the times of a request alone: of TTFT and of TPOT."""
        first_s, step_s = self.unloaded_there()
        return self.paper.ttft_s / first_s, self.paper.tpot_s / step_s

    def slo(self, ttft_s: float, tpot_s: float) -> Slo:
        """The objectives where a mean request alone takes `ttft_s`, and `tpot_s` a token."""
        ttft, tpot = self.multiples()
        return Slo(ttft_s=ttft * ttft_s, tpot_s=tpot * tpot_s)

    def mean(self, scale: float) -> tuple[int, int]:
        """Prompt and answer of the mean request, scaled; at least 1."""
        return max(1, round(self.prompt_tokens * scale)), max(1, round(self.output_tokens * scale))

    def arrivals(
        self, folder: Path, *, scale: float, rate: float, duration_s: float, seed: int
    ) -> list[Arrival]:
        """Poisson arrivals of a seed over about `duration_s`, lengths scaled.

        Raises:
            ConfigError: the length file is not there.
        """
        arrivals = poisson_of(folder, self.lengths, rate=rate, duration_s=duration_s, seed=seed)
        return [scaled(arrival, scale) for arrival in arrivals]


WORKLOADS: Sequence[Workload] = (
    Workload(dataset("alpaca"), 20.63, 163.80),
    Workload(dataset("sharegpt"), 343.76, 237.20),
    Workload(dataset("longbench"), 2686.89, 101.78),
)


def scaled(arrival: Arrival, scale: float) -> Arrival:
    """The request with both lengths times `scale`, at least a token each."""
    return msgspec.structs.replace(
        arrival,
        prompt_tokens=max(1, round(arrival.prompt_tokens * scale)),
        output_tokens=max(1, round(arrival.output_tokens * scale)),
    )
