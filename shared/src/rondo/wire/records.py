"""Records in key-value buckets: who is there, and who owns what."""

from __future__ import annotations

from rondo.perf.profile import LatencyProfile
from rondo.types import Group, MacroLoad
from rondo.wire.base import Wire


class InstanceRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_instances: who is there. `incarnation` is new at every start or rejoin.

    A draining instance finishes what it runs and takes nothing new. `weight_bytes` and `kv_bytes`
    are what its engine takes for weights and KV pool. `background_pools` as in `InstanceInfo`; 0
    leaves it to the scheduler.
    """

    instance_id: str
    incarnation: str
    model: str
    engine: str
    max_model_len: int
    block_size: int
    num_blocks: int
    max_running: int
    max_prefill_tokens: int
    profile: LatencyProfile
    draining: bool = False
    weight_bytes: int = 0
    kv_bytes: int = 0
    background_pools: float = 0.0


class MacroRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_macros: who owns what. `epoch` only grows; `beat` changes with each renewal.

    `instance_ids` are those that have joined. The record of a model's first macro-instance says
    in `groups` who belongs to which of all of them.
    """

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    beat: int
    max_model_len: int
    instance_ids: tuple[str, ...]
    load: MacroLoad = MacroLoad()
    groups: tuple[Group, ...] = ()


class StoredResponse(Wire, frozen=True, kw_only=True):
    """Bucket rondo_responses: an answer of /v1/responses and the conversation up to its end, as
    JSON, for requests that refer to it."""

    response_id: str
    data: bytes


class ScalingRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_scaling: how many instances of a model there should be, for whoever can start
    and stop them. Those in `stop` have nothing to do any more and may be ended.

    `num_wanted` are to take requests, those on their way included; `num_draining` finish what they
    have, beside them.
    """

    model: str
    epoch: int
    num_wanted: int
    num_draining: int
    stop: tuple[str, ...]
    reason: str
