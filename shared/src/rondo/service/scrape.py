"""The answer to a scrape, written without holding up the program."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from prometheus_client import CollectorRegistry, Metric, generate_latest


class _Snapshot:
    """What generate_latest needs of a registry: metrics that are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def scrape(registry: CollectorRegistry) -> bytes:
    """All metrics as Prometheus text.

    They are read here, on the event loop, to which the programs' state belongs; writing them down
    takes four times as long, and happens on a thread.
    """
    snapshot = _Snapshot(list(registry.collect()))
    return await asyncio.to_thread(generate_latest, cast(CollectorRegistry, snapshot))
