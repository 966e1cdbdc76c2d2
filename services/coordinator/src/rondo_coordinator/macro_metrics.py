"""Prometheus metrics of the macro-instances that a coordinator owns, read when it is scraped.

Who does not own a macro-instance says nothing of it: so a sum over all coordinators is right, and
`rondo_lease_epoch` tells who the owner is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rondo.perf.correction import DECODE, FUSED, PREFILL
from rondo.policy.admission import Failed
from rondo_coordinator.host import MacroHost

_KINDS = (("decode", DECODE), ("prefill", PREFILL), ("fused", FUSED))


class MacroMetrics(Collector):
    """Looks into the hosts of a coordinator."""

    def __init__(self, hosts: Mapping[str, MacroHost]) -> None:
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        """All of it, as of now."""
        hosts = list(self._hosts.values())
        pending = sum(host.num_pending for host in hosts)
        yield GaugeMetricFamily(
            "rondo_pending_requests", "Requests waiting for admission", value=pending
        )
        yield from self._macros(hosts)
        yield from self._slack(hosts)
        yield from self._predictions(hosts)

    def _macros(self, hosts: list[MacroHost]) -> Iterator[Metric]:
        epoch = GaugeMetricFamily(
            "rondo_lease_epoch", "Epoch of the owner of a macro-instance", labels=["macro"]
        )
        members = GaugeMetricFamily(
            "rondo_macro_instances", "Instances in service", labels=["macro"]
        )
        silence = GaugeMetricFamily(
            "rondo_instance_silence_seconds", "Time since its last report", labels=["instance_id"]
        )
        held = CounterMetricFamily(
            "rondo_admission_checks_failed",
            "Checks that kept a request from an instance, each time that it was tried",
            labels=["check"],
        )
        counts = dict.fromkeys((check.value for check in Failed), 0)
        now_s = time.monotonic()
        for host in hosts:
            joined = [member for member in host.members.values() if member.joined]
            epoch.add_metric([host.macro_id], host.epoch)
            members.add_metric([host.macro_id], len(joined))
            for member in joined:
                silence.add_metric([member.record.instance_id], now_s - member.heard_s)
            for check, count in host.policy.load.held_back.items():
                counts[check] = counts.get(check, 0) + count
        for check, count in counts.items():
            held.add_metric([check], count)
        yield from (epoch, members, silence, held)

    def _slack(self, hosts: list[MacroHost]) -> Iterator[Metric]:
        saved = GaugeMetricFamily(
            "rondo_saved_tpot_seconds",
            "How far the requests that decode on an instance are ahead of their TPOT limits",
            labels=["instance_id", "stat"],
        )
        for host in hosts:
            saved_s = host.policy.saved_tpot_s(time.monotonic())
            for instance_id, (mean_s, least_s) in saved_s.items():
                saved.add_metric([instance_id, "mean"], mean_s)
                saved.add_metric([instance_id, "least"], least_s)
        yield saved

    def _predictions(self, hosts: list[MacroHost]) -> Iterator[Metric]:
        labels = ["instance_id", "kind"]
        error = GaugeMetricFamily(
            "rondo_step_prediction_error_ratio",
            "Recent mean of |predicted - measured| / measured duration of a step",
            labels=labels,
        )
        factor = GaugeMetricFamily(
            "rondo_step_prediction_factor",
            "What the profile's durations are multiplied with",
            labels=labels,
        )
        for host in hosts:
            for instance_id, model in host.policy.latencies.items():
                for name, kind in _KINDS:
                    if model.seen(kind):
                        error.add_metric([instance_id, name], model.error(kind))
                        factor.add_metric([instance_id, name], model.factor(kind))
        yield from (error, factor)
