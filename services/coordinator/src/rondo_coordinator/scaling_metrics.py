"""How many instances a coordinator wants, for autoscalers that read metrics instead of the bus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rondo_coordinator.stewards import Stewards


class ScalingMetrics(Collector):
    """Looks into the stewards; one coordinator has a model's, and the others say nothing of it."""

    def __init__(self, stewards: Stewards) -> None:
        self._stewards = stewards

    def collect(self) -> Iterator[Metric]:
        """All of it, as of now."""
        wanted = GaugeMetricFamily(
            "rondo_instances_wanted", "Instances that there should be", labels=["model_name"]
        )
        for model, count in self._stewards.num_wanted().items():
            wanted.add_metric([model], count)
        yield wanted
