"""Metrics that every program has: who it is, its process, and its connection to the bus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rondo.bus.protocol import Bus
from rondo.metrics.vllm_names import VllmNames
from rondo.service.settings import BaseSettings

#: What a bus counts that should not have happened, by the name of its counter.
_LOSSES = ("undecodable", "handler_errors", "slow_consumer", "too_large")


def add_program_metrics(
    registry: CollectorRegistry, settings: BaseSettings, program_id: str, bus: Bus, model: str = ""
) -> None:
    """Adds them, and vLLM's names where the settings ask for these; all are read on a scrape.

    Args:
        model: what the program serves, if it is one model.
    """
    # When each series began: half of all that would be scraped.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    registry.register(_Program(program_id, model, bus))
    if settings.vllm_metrics:
        VllmNames(registry, model)


class _Program(Collector):
    def __init__(self, program_id: str, model: str, bus: Bus) -> None:
        self._program_id = program_id
        self._model = model
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        stats = self._bus.stats
        info = GaugeMetricFamily(
            "rondo_program_info",
            "1; to join the id and model of a program to its other metrics",
            labels=["program_id", "model"],
        )
        info.add_metric([self._program_id, self._model], 1)
        yield info
        yield GaugeMetricFamily(
            "rondo_bus_connected", "Whether the bus is there", value=float(self._bus.connected)
        )
        messages = CounterMetricFamily(
            "rondo_bus_messages", "Messages over the bus", labels=["direction"]
        )
        messages.add_metric(["sent"], stats.published)
        messages.add_metric(["received"], stats.received)
        yield messages
        losses = CounterMetricFamily(
            "rondo_bus_losses", "Messages that did no good, by what was wrong", labels=["reason"]
        )
        for reason in _LOSSES:
            losses.add_metric([reason], getattr(stats, reason))
        yield losses
        yield CounterMetricFamily(
            "rondo_bus_reconnects", "Connections to the bus after the first", value=stats.reconnects
        )
