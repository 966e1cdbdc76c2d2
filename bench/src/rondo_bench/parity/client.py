"""An open-loop client: every request leaves at its time, whatever became of the others."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.errors import PeerError
from rondo.types import Slo
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.parity.compare import MISSED, Served
from rondo_bench.sim.records import Arrival


class AnswerWrong(PeerError):
    """A request failed, or its answer had another length than asked for."""


async def offer(
    url: str, model: str, arrivals: Sequence[Arrival], slo: Slo, seed: int
) -> list[Served]:
    """Offers all arrivals at their times, relative to now; what became of each, in order.

    Raises:
        AnswerWrong: an answer broke off or had too few tokens.
    """
    shape = BodyShape(model=model, send_slo=True)
    async with LoadClient(Target(base_url=url, shape=shape, slo=slo)) as client:
        outcomes = await client.open_loop(arrivals, RunOptions(seed=seed, max_failures=0))
    if failures := [one for one in outcomes if one.ending.is_failure and one.error]:
        raise AnswerWrong(f"no answer: {failures[0].error}")
    return [_served(one) for one in outcomes]


def _served(outcome: Outcome) -> Served:
    if outcome.ending is Ending.REFUSED:
        return MISSED
    asked = outcome.arrival.output_tokens
    if outcome.num_tokens != asked or outcome.ttft_s is None:
        raise AnswerWrong(f"{outcome.num_tokens} of {asked} tokens")
    return Served(outcome.ttft_s, outcome.times.tpot_s)
