"""The lanes: what each instance is doing, and what it did in the last minute. Bounded.

Pure bookkeeping on the collector's clock: told what happened, asked for what changed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rondo.types import KvOccupancy, Phase
from rondo.wire.messages import InstanceRecord
from rondo_gateway.console.view import Lane, LanePhase, Level, Mark, MarkKind, Millis, PhaseChange

#: A browser that comes sees so far back.
HISTORY_MS: Millis = 60_000
#: Changes and marks kept of one lane; a lane that has more shows less of its past.
MAX_CHANGES = 256
#: Lanes beyond are not shown.
MAX_LANES = 4096

_PHASES = {
    Phase.IDLE: LanePhase.IDLE,
    Phase.DECODE: LanePhase.DECODE,
    Phase.PREFILL: LanePhase.PREFILL,
    Phase.FUSED: LanePhase.FUSED,
}


@dataclass(slots=True)
class _Row:
    """One lane."""

    lane: Lane
    level: Level
    phases: deque[PhaseChange] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))
    marks: deque[Mark] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))


@dataclass(slots=True)
class Changes:
    """What changed since it was last taken."""

    lanes: dict[int, Lane] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    phases: list[PhaseChange] = field(default_factory=list)
    levels: dict[int, Level] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)


class LaneBook:
    """All lanes by instance id."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._next = 0
        self._changes = Changes()

    def __len__(self) -> int:
        return len(self._rows)

    def take_changes(self) -> Changes:
        """What changed since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes

    def whole(self, now: Millis) -> Changes:
        """Everything, and the last minute of it."""
        since = now - HISTORY_MS
        whole = Changes()
        for row in self._rows.values():
            number = row.lane.number
            whole.lanes[number] = row.lane
            whole.levels[number] = row.level
            whole.phases.extend(_recent(row.phases, since))
            whole.marks.extend(mark for mark in row.marks if mark.at >= since)
        return whole

    def record(self, record: InstanceRecord, macro: str) -> None:
        """An instance is there, or its record has changed."""
        row = self._rows.get(record.instance_id)
        if row is None:
            if len(self._rows) >= MAX_LANES:
                return
            number, self._next = self._next, self._next + 1
        else:
            number = row.lane.number
        lane = Lane(
            number=number,
            id=record.instance_id,
            macro=macro,
            model=record.model,
            engine=record.engine,
            total_blocks=record.num_blocks,
            max_running=record.max_running,
            draining=record.draining,
        )
        if row is None:
            self._rows[record.instance_id] = _Row(lane, Level(number, 0, 0, 0, 0))
        elif row.lane == lane:
            return
        else:
            row.lane = lane
        self._changes.lanes[number] = lane

    def remove(self, instance_id: str) -> None:
        """An instance is gone."""
        if row := self._rows.pop(instance_id, None):
            self._changes.left.append(row.lane.number)
            self._changes.lanes.pop(row.lane.number, None)
            self._changes.levels.pop(row.lane.number, None)

    def phase(self, instance_id: str, now: Millis, phase: LanePhase, turn: int) -> None:
        """What the instance does from now on; nothing happens where it does so already."""
        row = self._rows.get(instance_id)
        if row is None:
            return
        last = row.phases[-1] if row.phases else None
        if last and last.phase == phase and (last.turn == turn or phase < LanePhase.PREFILL):
            return
        change = PhaseChange(row.lane.number, now, phase, turn)
        row.phases.append(change)
        self._changes.phases.append(change)

    def now(self, instance_id: str) -> LanePhase:
        """What the instance does."""
        row = self._rows.get(instance_id)
        return row.phases[-1].phase if row and row.phases else LanePhase.IDLE

    def since(self, instance_id: str) -> Millis:
        """When it began to do so; 0 where that is not known."""
        row = self._rows.get(instance_id)
        return row.phases[-1].at if row and row.phases else 0

    def num_running(self, instance_id: str) -> int:
        """How many requests the instance runs, as last heard."""
        row = self._rows.get(instance_id)
        return row.level.num_running if row else 0

    def level(
        self, instance_id: str, num_running: int, num_waiting: int, kv: KvOccupancy | None
    ) -> None:
        """How full the instance is."""
        if row := self._rows.get(instance_id):
            used, reserved = (kv.used_blocks, kv.reserved_blocks) if kv else (0, 0)
            level = Level(row.lane.number, num_running, num_waiting, used, reserved)
            if level != row.level:
                row.level = level
                self._changes.levels[level.lane] = level

    def mark(self, instance_id: str, now: Millis, kind: MarkKind) -> None:
        """A request came, or ended."""
        if row := self._rows.get(instance_id):
            mark = Mark(row.lane.number, now, kind)
            row.marks.append(mark)
            self._changes.marks.append(mark)


def shown(phase: Phase) -> LanePhase:
    """A phase as lanes show it."""
    return _PHASES[phase]


def _recent(phases: deque[PhaseChange], since: Millis) -> list[PhaseChange]:
    """Those since, and the last one before: it held until then."""
    changes = list(phases)
    first = next((i for i, change in enumerate(changes) if change.at >= since), len(changes))
    return changes[max(0, first - 1) :]
