"""Records in key-value buckets: who is there, and who owns what."""

from __future__ import annotations

from rondo.perf.profile import LatencyProfile
from rondo.wire.base import Wire


class InstanceRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_instances: who is there. `incarnation` is new at every start or rejoin.

    A draining instance finishes what it runs and takes nothing new.
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


class MacroRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_macros: who owns what. `epoch` only grows; `beat` changes with each renewal."""

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    beat: int
    max_model_len: int
    instance_ids: tuple[str, ...]
