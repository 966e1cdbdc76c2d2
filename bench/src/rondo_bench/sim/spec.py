"""What a simulated cluster consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from rondo.errors import ConfigError
from rondo.perf.profile import LatencyProfile
from rondo.policy.catalog import PolicySettings
from rondo.policy.econoserve import EconoSettings
from rondo.policy.fudg import FudgSettings, spread
from rondo.policy.instance_policy import InstancePolicy
from rondo.types import Slo

#: The instance policy that looks at no predicted length, nor at the longest that is allowed.
BLOCK_GROWTH = InstancePolicy.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to an instance at `at_s`.

    `fail`: it is gone with all it had. `slow`: its steps take `factor` times as long from then on
    (1 ends it), which its latency model does not know.
    """

    at_s: float
    instance: int
    kind: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """What KV moves over, for policies that move it.

    Args:
        instances_per_node: 2 is TP 4 on nodes of 8 GPUs.
        link_gbps: Gbit/s of a node's link in each direction, shared by all its instances; inf
            lets every transfer take no time.
        intra_node_gbps: Gbit/s among the instances of a node, shared. PCIe 4.0 x16 carries about
            200; copies staged in host memory halve that, and the all-reduces of tensor-parallel
            instances use the same lanes all the time: about a third is left.
        kv_overlap: share of a transfer that may happen during its last prefill step: all layers
            but the last of about fifty.
        at_once_s: a move ordered so soon after the prefill counts as one whose target was known.
        kv_bytes_per_token: None takes the profile's.
    """

    instances_per_node: int = 2
    link_gbps: float = 10.0
    intra_node_gbps: float = 64.0
    kv_overlap: float = 0.98
    at_once_s: float = 1e-9
    kv_bytes_per_token: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster of equal instances.

    Args:
        instance_policy, econo: what instances go by when they choose prompts and give out KV, and
            its settings.
        kv_tokens: size of an instance's pool; None takes the profile's.
        promised_share: KV that the policy may count on, over what an instance has. Above 1 the
            predicted ends of what it places there may add up to more than the pool, as not all end
            at once; what then runs short is the instance's business.
        cpu_ms: engine overhead of each step, in place of the profile's.
        max_prefill_tokens: limit of a step that is not told another (`Batching.tokens`).
        answer_limit_tokens: what schedulers are told as a request's longest answer.
        prediction: what they are told as its likely length: `mean` of the answers so far, the
            `file`'s prediction, or the `exact` length.
        message_delay_s: each message between gateway, coordinator and worker takes that long.
    """

    profile: LatencyProfile
    policy: str
    num_instances: int
    slo: Slo
    num_macros: int = 1
    settings: PolicySettings = field(default_factory=PolicySettings)
    instance_policy: str = BLOCK_GROWTH
    econo: EconoSettings = EconoSettings()
    kv_tokens: int | None = None
    promised_share: float = 1.0
    cpu_ms: float = 4.0
    max_running: int = 256
    max_prefill_tokens: int = 4096
    answer_limit_tokens: int = 4096
    prediction: str = "mean"
    message_delay_s: float = 0.0
    links: LinkSpec = LinkSpec()
    faults: Sequence[Fault] = ()
    timeline: bool = False

    def latency(self) -> LatencyProfile:
        """The profile with this cluster's overhead and pool."""
        num_blocks = self.profile.num_blocks
        if self.kv_tokens is not None:
            num_blocks = max(1, self.kv_tokens // self.profile.block_size)
        return msgspec.structs.replace(self.profile, cpu_ms=self.cpu_ms, num_blocks=num_blocks)

    @property
    def hides_lengths(self) -> bool:
        """Whether instances are told the longest answer that is allowed instead of the length that
        it will have, which ends it just as well where nobody looks at it before."""
        return self.instance_policy != BLOCK_GROWTH

    def macro_sizes(self) -> list[int]:
        """Instances of each macro-instance; none where a scaler makes them."""
        if not self.num_macros:
            return []
        bounds = [-(-i * self.num_instances // self.num_macros) for i in range(self.num_macros + 1)]
        return [high - low for low, high in pairwise(bounds)]

    def settings_of(self, num_instances: int) -> PolicySettings:
        """The policy's settings for a macro-instance of that size: roles and places are decided.

        Raises:
            ConfigError: too few instances for both roles.
        """
        if self.policy != "fudg":
            return self.settings
        num_prefill = self.settings.fudg.num_prefill or num_instances // 2
        if not 0 < num_prefill < num_instances:
            detail = f"{num_prefill} of {num_instances} leave no instance of one role"
            raise ConfigError("--prefill-instances", detail)
        nodes = self.settings.fudg.nodes or spread(num_instances, self.links.instances_per_node)
        fudg = FudgSettings(num_prefill=num_prefill, nodes=nodes)
        return msgspec.structs.replace(self.settings, fudg=fudg)

    def kv_bytes_per_token(self) -> float:
        """Bytes of KV that a cached token takes.

        Raises:
            ConfigError: neither the profile nor the options say.
        """
        known = self.links.kv_bytes_per_token
        if known is None:
            known = self.profile.kv_bytes_per_token
        if known is None:
            detail = f"needed to move KV; the profile {self.profile.name} does not say"
            raise ConfigError("--kv-bytes-per-token", detail)
        return known
