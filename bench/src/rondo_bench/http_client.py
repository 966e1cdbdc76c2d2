"""A closed loop over HTTP with given prompts, where every request must succeed."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.errors import PeerError
from rondo.metrics.lifecycle import Lifecycle
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.prompts import BodyShape
from rondo_bench.sim.records import Arrival
from rondo_bench.workload import Item


class StreamFailed(PeerError):
    """A stream ended with an error or short of its tokens."""


async def run_http(
    url: str, model: str, items: Sequence[Item], concurrency: int
) -> list[Lifecycle]:
    """Keeps `concurrency` streams open until all items are done; their stamps.

    Raises:
        StreamFailed: a request was refused, failed, or had too few tokens.
    """
    arrivals = [
        Arrival(
            request_id=item.request_id,
            at_s=0.0,
            prompt_tokens=len(item.prompt),
            output_tokens=item.output_tokens,
        )
        for item in items
    ]
    shape = BodyShape(model=model, prompts=[item.prompt for item in items])
    async with LoadClient(Target(base_url=url, shape=shape)) as client:
        outcomes = await client.closed_loop(arrivals, concurrency, RunOptions(max_failures=0))
    for outcome in outcomes:
        if not outcome.completed and outcome.error:
            raise StreamFailed(outcome.error)
    for outcome in outcomes:
        asked = outcome.arrival.output_tokens
        if outcome.num_tokens != asked:
            raise StreamFailed(f"{outcome.num_tokens} of {asked} tokens")
    return [outcome.times for outcome in outcomes]
