"""What browsers are to see of the cluster, made of what is heard on the bus. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rondo.types import Phase, Slo
from rondo.wire import messages as m
from rondo_gateway.attainment import CANCELLED, COMPLETE, judge
from rondo_gateway.console.fields import number, seconds, string
from rondo_gateway.console.figures import Figures
from rondo_gateway.console.groups import Groups
from rondo_gateway.console.lanes import LaneBook, shown
from rondo_gateway.console.tracks import Tracks
from rondo_gateway.console.view import LanePhase, MarkKind, Millis, Note, Point, Step

#: Kept, and sent to a browser that comes.
MAX_NOTES = 200
LATEST_TRACKS = 200
#: After this long an event was lost if owners say something else.
SETTLED_MS: Millis = 1000


class Picture:
    """Told what is heard, and when; asked for what changed, or for everything."""

    def __init__(self) -> None:
        #: Instances whose reports are heard: their phases need not be guessed from turns.
        self._reporting: dict[str, None] = {}
        self._fuses = False  # whether decodes ride along in turns, here
        self.tracks = Tracks()
        self._lanes = LaneBook()
        self._groups = Groups()
        self._figures = Figures()
        self._records: dict[str, m.InstanceRecord] = {}
        self._pending: dict[str, int] = {}
        self._notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self._news = _News()
        self._hear: dict[str, Callable[[Millis, m.Event], None]] = {
            "turn_began": self._turn_began,
            "turn_ended": self._turn_ended,
            "pending": self.tracks.pending,
            "admitted": self._admitted,
            "rejected": self._refused,
            "answered": self._answered,
            "instance": self._note,
            "mitosis": self._note,
            "scaling": self._note,
        }

    @property
    def num_lanes(self) -> int:
        """Instances that are there."""
        return len(self._lanes)

    # What browsers get

    def step(self, now: Millis) -> Step | None:
        """What changed since the last call; None when nothing did."""
        changes = self._lanes.take_changes()
        news, self._news = self._news, _News()
        step = Step(
            at=now,
            lanes=tuple(changes.lanes.values()),
            left=tuple(changes.left),
            macros=self._groups.shown if news.macros else None,
            pending=self._pending if news.pending else None,
            phases=tuple(changes.phases),
            levels=tuple(changes.levels.values()),
            marks=tuple(changes.marks),
            notes=tuple(news.notes),
            requests=self.tracks.take_changes(),
            points=tuple(news.points),
        )
        return None if step == Step(at=now) else step

    def whole(self, now: Millis) -> Step:
        """Everything. Take it right after `step`, or increments repeat part of it."""
        lanes = self._lanes.whole(now)
        return Step(
            at=now,
            fresh=True,
            lanes=tuple(lanes.lanes.values()),
            macros=self._groups.shown,
            pending=self._pending,
            phases=tuple(lanes.phases),
            levels=tuple(lanes.levels.values()),
            marks=tuple(lanes.marks),
            notes=tuple(self._notes),
            requests=self.tracks.latest(LATEST_TRACKS),
            points=tuple(self._figures.points),
        )

    # What is heard

    def macro(self, now: Millis, macro_id: str, record: m.MacroRecord | None) -> None:
        """A record of a macro-instance changed; None: it is gone."""
        if told := self._groups.update(macro_id, record):
            self._tell(now, "owner", told)
        if self._groups.refresh():
            self._news.macros = True
            for instance in self._records.values():
                self._lanes.record(instance, self._groups.place(instance.instance_id))

    def instance(self, instance_id: str, record: m.InstanceRecord | None) -> None:
        """A record of an instance changed; None: it is gone."""
        if record is None:
            self._records.pop(instance_id, None)
            self._reporting.pop(instance_id, None)
            self._lanes.remove(instance_id)
            return
        self._records[instance_id] = record
        self._lanes.record(record, self._groups.place(instance_id))

    def event(self, now: Millis, event: m.Event) -> None:
        """Something happened; kinds that nobody here knows are passed over."""
        if hear := self._hear.get(event.kind):
            hear(now, event)

    def status(self, now: Millis, reply: m.StatusReply) -> None:
        """How things stand, from the owner of a macro-instance."""
        if self._pending.get(reply.macro_id) != reply.num_pending:
            self._pending = {**self._pending, reply.macro_id: reply.num_pending}
            self._news.pending = True
        for one in reply.instances:
            if one.instance_id not in self._reporting:
                self._correct(now, one)
            self._lanes.level(one.instance_id, one.num_running, one.num_waiting, one.kv)

    def report(self, now: Millis, report: m.StepReport) -> None:
        """An instance reports."""
        state, instance_id = report.progress, report.instance_id
        self._reporting[instance_id] = None
        self._phase(instance_id, now, state.phase, state.turn)
        self._lanes.level(instance_id, state.num_running, state.num_waiting, state.kv)
        self.tracks.progressed(now, instance_id, state)

    def no_reports(self) -> None:
        """Reports are not listened to any more."""
        self._reporting.clear()

    def second(self, now: Millis) -> None:
        """A second is over: its figures."""
        self._news.points.append(self._figures.point(now))

    def _phase(self, instance_id: str, now: Millis, phase: Phase, turn: int) -> None:
        self._fuses = self._fuses or phase is Phase.FUSED
        self._lanes.phase(instance_id, now, shown(phase), turn)

    def _correct(self, now: Millis, one: m.InstanceStatus) -> None:
        """Events are news and this is a moment old: it counts where no event came lately."""
        quiet = now - self._lanes.since(one.instance_id) > SETTLED_MS
        if quiet or max(shown(one.phase), self._lanes.now(one.instance_id)) < LanePhase.PREFILL:
            self._phase(one.instance_id, now, one.phase, one.turn)

    # Events

    def _turn_began(self, now: Millis, event: m.Event) -> None:
        instance_id, turn = event.fields.get("instance"), event.fields.get("turn")
        if not isinstance(instance_id, str) or not isinstance(turn, int):
            return
        if self._lanes.now(instance_id) < LanePhase.PREFILL or instance_id not in self._reporting:
            # The first step's report comes when the step is over: until then it is a guess.
            fused = self._fuses and self._lanes.num_running(instance_id) > 0
            phase = LanePhase.FUSED if fused else LanePhase.PREFILL
            self._lanes.phase(instance_id, now, phase, turn)

    def _turn_ended(self, now: Millis, event: m.Event) -> None:
        instance_id, turn = event.fields.get("instance"), event.fields.get("turn")
        if not isinstance(instance_id, str) or not isinstance(turn, int):
            return
        if instance_id not in self._reporting:
            self._lanes.phase(instance_id, now, LanePhase.DECODE, turn)

    def _admitted(self, now: Millis, event: m.Event) -> None:
        self.tracks.admitted(now, event)
        self._mark(now, event, MarkKind.ADMITTED)

    def _refused(self, now: Millis, event: m.Event) -> None:
        self.tracks.refused(now, event)

    def _answered(self, now: Millis, event: m.Event) -> None:
        outcome = string(event, "outcome")
        limits = Slo(
            ttft_s=seconds(event, "limit_ttft_ms") or 0.0,
            tpot_s=seconds(event, "limit_tpot_ms") or 0.0,
        )
        met = judge(outcome, seconds(event, "ttft_ms"), seconds(event, "tpot_ms"), limits)
        self.tracks.answered(now, event, met=met is not None and met.both)
        if met is not None:
            ttft_ms, tpot_ms = number(event, "ttft_ms"), number(event, "tpot_ms")
            self._figures.ended(now, ttft_ms, tpot_ms, met=met.both)
        if outcome != CANCELLED:  # its client went: nobody's failure
            self._mark(now, event, MarkKind.ANSWERED if outcome in COMPLETE else MarkKind.FAILED)

    def _mark(self, now: Millis, event: m.Event, kind: MarkKind) -> None:
        instance_id = event.fields.get("instance")
        if isinstance(instance_id, str):
            self._lanes.mark(instance_id, now, kind)

    def _note(self, now: Millis, event: m.Event) -> None:
        self._tell(now, event.kind, _as_text(event))

    def _tell(self, now: Millis, kind: str, text: str) -> None:
        note = Note(at=now, kind=kind, text=text)
        self._notes.append(note)
        self._news.notes.append(note)


class _News:
    """What is to be told besides lanes and requests."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.points: list[Point] = []
        self.macros = self.pending = False


def _as_text(event: m.Event) -> str:
    """A line about the cluster for people."""
    fields = event.fields
    match event.kind:
        case "instance" if "joined" in fields:
            return f"{fields['instance']} joined {fields['joined']}"
        case "instance":
            return f"{fields.get('instance')} left {event.source_id}: {fields.get('left')}"
        case "mitosis":
            return f"{fields.get('what')}: {fields.get('reason')}"
    carried = "" if fields.get("carried_out") else " (advice only)"
    return f"{fields.get('from')} → {fields.get('to')} instances: {fields.get('reason')}{carried}"
