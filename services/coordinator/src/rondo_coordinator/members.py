"""An instance of a macro-instance, as its owner knows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rondo.bus.sequence import SequenceTracker
from rondo.policy.events import BACKGROUND_POOLS, InstanceInfo
from rondo.types import Phase, Progress
from rondo.wire import messages as m


@dataclass(slots=True)
class Member:
    """An instance of the macro-instance, and when it was heard last."""

    record: m.InstanceRecord
    heard_s: float
    joined: bool = False
    beats_until_s: float = float("-inf")  # until then it may beat instead of reporting
    progress: Progress | None = None
    sequence: SequenceTracker = field(default_factory=SequenceTracker)

    @property
    def info(self) -> InstanceInfo:
        """What a scheduler needs to know of it."""
        record = self.record
        return InstanceInfo(
            instance_id=record.instance_id,
            latency=record.profile,
            block_size=record.block_size,
            num_blocks=record.num_blocks,
            max_model_len=record.max_model_len,
            max_running=record.max_running,
            max_prefill_tokens=record.max_prefill_tokens,
            background_pools=record.background_pools or BACKGROUND_POOLS,
        )

    def status(self, now_s: float) -> m.InstanceStatus:
        """For `rondo status`."""
        progress = self.progress
        return m.InstanceStatus(
            instance_id=self.record.instance_id,
            engine=self.record.engine,
            phase=progress.phase if progress else Phase.IDLE,
            turn=progress.turn if progress else 0,
            num_running=progress.num_running if progress else 0,
            num_waiting=progress.num_waiting if progress else 0,
            kv=progress.kv if progress else None,
            report_age_s=now_s - self.heard_s,
            weight_bytes=self.record.weight_bytes,
            kv_bytes=self.record.kv_bytes,
            peak_bytes=progress.peak_bytes if progress else 0,
            space=progress.space if progress else None,
        )
