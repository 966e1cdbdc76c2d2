"""A batch's record: its life cycle, and how the gateway that works on it keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from rondo.bus.protocol import KeyValue
from rondo.errors import RevisionConflict, RondoError
from rondo.wire.messages import BatchRecord

#: A record is renewed so often.
BEAT_S = 2.0
#: An owner that has not renewed its record for so long, by one's own clock, is gone.
LEASE_S = 4 * BEAT_S
#: OpenAI's; the others are over.
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class OwnerLost(RondoError):
    """Another gateway works on the batch now, or it is over."""


class HeldRecord:
    """The record of a batch that this gateway owns.

    All methods raise BusUnavailable when the bus does not answer, and OwnerLost.
    """

    def __init__(self, bucket: KeyValue, record: BatchRecord, revision: int) -> None:
        self._bucket = bucket
        self._revision = revision
        self._lock = asyncio.Lock()
        self._renewed_s = time.monotonic()
        self.record = record

    @property
    def may_be_taken(self) -> bool:
        """Whether it was not renewed for so long that another gateway may have it now."""
        return time.monotonic() - self._renewed_s > LEASE_S

    async def change(self, update: Callable[[BatchRecord], BatchRecord] = lambda r: r) -> None:
        """Renews the record, changed by `update`, which sees what others wrote meanwhile."""
        async with self._lock:
            while True:
                now_s = time.monotonic()
                record = update(self.record)
                record = msgspec.structs.replace(
                    record, beat=record.beat + 1, age_s=record.age_s + now_s - self._renewed_s
                )
                try:
                    self._revision = await self._bucket.update(
                        record.batch_id, record, self._revision
                    )
                except RevisionConflict:
                    await self._reread()
                    continue
                self.record, self._renewed_s = record, now_s
                return

    async def _reread(self) -> None:
        entry = await self._bucket.get(self.record.batch_id)
        found = entry.value if entry else None
        # Our own write may have arrived although its acknowledgement did not.
        if (
            entry is None
            or not isinstance(found, BatchRecord)
            or found.owner_id != self.record.owner_id
            or found.status not in OPEN
        ):
            raise OwnerLost(f"batch {self.record.batch_id} belongs to somebody else")
        self.record, self._revision = found, entry.revision


def moved(record: BatchRecord, status: str) -> BatchRecord:
    """The record in a new status, with the time it got there, which clients are shown."""
    stamps = {**record.stamps, f"{status}_at": int(time.time())}
    return msgspec.structs.replace(record, status=status, stamps=stamps)


def as_object(record: BatchRecord) -> dict[str, Any]:
    """OpenAI's batch object."""
    stamps = record.stamps
    over = record.status in ("completed", "cancelled", "expired")
    has_output, has_errors = over and record.num_completed > 0, over and record.num_failed > 0
    problems = [
        {"code": p.code, "message": p.message, "line": p.line, "param": p.param}
        for p in record.problems
    ]
    return {
        "id": record.batch_id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": record.input_file_id,
        "completion_window": f"{record.window_s // 3600}h",
        "status": record.status,
        "output_file_id": record.output_file_id if has_output else None,
        "error_file_id": record.error_file_id if has_errors else None,
        "created_at": record.created_at,
        "expires_at": record.created_at + record.window_s,
        **{
            f"{name}_at": stamps.get(f"{name}_at")
            for name in (
                *("in_progress", "finalizing", "completed", "failed"),
                *("expired", "cancelling", "cancelled"),
            )
        },
        "request_counts": {
            "total": record.num_lines,
            "completed": record.num_completed,
            "failed": record.num_failed,
        },
        "usage": {
            "input_tokens": record.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": record.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": record.input_tokens + record.output_tokens,
        },
        "metadata": record.metadata or None,
    }
