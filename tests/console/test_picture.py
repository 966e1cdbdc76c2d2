"""What is heard on the bus becomes lanes, figures and stories of requests."""

from __future__ import annotations

from typing import Any

from rondo.bus import subjects
from rondo.types import (
    Finished,
    FinishReason,
    Group,
    KvOccupancy,
    Phase,
    Progress,
    RequestProgress,
    Slo,
    Started,
)
from rondo.wire import messages as m
from rondo_gateway.console import lanes, tracks
from rondo_gateway.console.figures import Figures
from rondo_gateway.console.picture import Picture
from rondo_gateway.console.view import LanePhase, Mark, MarkKind, PhaseChange, Step
from tests.support.console import instance_record
from tests.support.services import MACRO, MODEL

KV = KvOccupancy(total_blocks=1000, used_blocks=40, free_blocks=960, reserved_blocks=5)


def macro(*names: str, epoch: int = 1, groups: tuple[Group, ...] = ()) -> m.MacroRecord:
    return m.MacroRecord(
        macro_id=MACRO,
        model=MODEL,
        owner_id=f"c{epoch}",
        epoch=epoch,
        beat=1,
        max_model_len=1024,
        instance_ids=names,
        groups=groups,
    )


def picture(*names: str) -> Picture:
    """One that knows some instances, and has told so."""
    made = Picture()
    made.macro(0, MACRO, macro(*names))
    for name in names:
        made.instance(name, instance_record(name))
    made.step(0)
    return made


def event(kind: str, **fields: str | int | float | list[str]) -> m.Event:
    return m.Event(kind=kind, source_id=MACRO, seq=1, fields=dict(fields))


def report(phase: Phase, **news: Any) -> m.StepReport:
    progress = Progress(
        phase=phase, turn=3, decode_steps=1, num_running=2, num_waiting=1, kv=KV, **news
    )
    return m.StepReport(instance_id="a", incarnation="i", epoch=1, seq=1, progress=progress)


def status(phase: Phase) -> m.StatusReply:
    one = m.InstanceStatus(
        instance_id="a",
        engine="emulated",
        phase=phase,
        turn=4,
        num_running=1,
        num_waiting=0,
        kv=KV,
        report_age_s=0.1,
    )
    return m.StatusReply(
        macro_id=MACRO, model=MODEL, owner_id="c1", epoch=1, num_pending=0, instances=(one,)
    )


def step_of(made: Picture, now: int) -> Step:
    step = made.step(now)
    assert step is not None
    return step


def test_nothing_new_is_not_told() -> None:
    made = picture("a")
    assert made.step(5) is None


def test_a_turn_is_a_stretch_of_its_lane() -> None:
    made = picture("a", "b")
    made.event(10, event("turn_began", instance="b", turn=7, seconds=0.0))
    made.event(30, event("turn_ended", instance="b", turn=7, seconds=0.02))
    assert step_of(made, 40).phases == (
        PhaseChange(1, 10, LanePhase.PREFILL, 7),
        PhaseChange(1, 30, LanePhase.DECODE, 7),
    )


def test_reports_are_believed_rather_than_turns() -> None:
    made = picture("a")
    made.report(10, report(Phase.FUSED))
    made.event(11, event("turn_began", instance="a", turn=3, seconds=0.0))
    made.event(12, event("turn_ended", instance="a", turn=3, seconds=0.0))
    step = step_of(made, 20)
    assert step.phases == (PhaseChange(0, 10, LanePhase.FUSED, 3),)
    assert [level.num_running for level in step.levels] == [2]
    made.no_reports()
    made.event(30, event("turn_ended", instance="a", turn=3, seconds=0.0))
    assert step_of(made, 40).phases == (PhaseChange(0, 30, LanePhase.DECODE, 3),)


def test_a_turn_is_guessed_to_be_as_others_were() -> None:
    made = picture("a")
    made.report(10, report(Phase.FUSED))
    made.report(20, report(Phase.DECODE))
    made.event(30, event("turn_began", instance="a", turn=4, seconds=0.0))
    assert step_of(made, 40).phases[-1] == PhaseChange(0, 30, LanePhase.FUSED, 4)


def test_a_lost_event_is_made_good_and_a_fresh_one_believed() -> None:
    made = picture("a")
    made.event(5000, event("turn_began", instance="a", turn=4, seconds=0.0))
    made.status(5100, status(Phase.DECODE))
    made.status(6200, status(Phase.DECODE))
    assert step_of(made, 7000).phases == (
        PhaseChange(0, 5000, LanePhase.PREFILL, 4),
        PhaseChange(0, 6200, LanePhase.DECODE, 4),
    )


def test_a_lane_keeps_its_number_and_a_new_one_gets_another() -> None:
    made = picture("a", "b")
    made.instance("a", None)
    assert step_of(made, 10).left == (0,)
    made.instance("a", instance_record("a"))
    assert [lane.number for lane in step_of(made, 20).lanes] == [2]


def test_groups_of_the_first_macro_instance_say_who_belongs_where() -> None:
    made = picture("a", "b")
    second = subjects.further_macro_id(MACRO, 2)
    groups = (
        Group(macro_id=MACRO, instance_ids=("a",)),
        Group(macro_id=second, instance_ids=("b",)),
    )
    made.macro(10, MACRO, macro("a", "b", groups=groups))
    step = step_of(made, 20)
    assert step.macros is not None
    assert step.macros[0].members == ("a",)
    assert [(lane.id, lane.macro) for lane in step.lanes] == [("b", second)]


def test_a_new_owner_is_noted() -> None:
    made = picture("a")
    made.macro(10, MACRO, macro("a", epoch=2))
    [note] = step_of(made, 20).notes
    assert note.text == f"c2 took {MACRO} over (epoch 2)"


def test_the_whole_is_what_the_steps_told() -> None:
    made = picture("a", "b")
    made.event(10, event("turn_began", instance="a", turn=1, seconds=0.0))
    made.event(11, event("admitted", request="r", instance="a", turn=1, reasons=["idle"]))
    step = step_of(made, 20)
    whole = made.whole(20)
    assert whole.fresh
    assert (whole.phases, whole.marks, whole.requests) == (step.phases, step.marks, step.requests)
    assert whole.marks == (Mark(0, 11, MarkKind.ADMITTED),)
    assert made.whole(11 + lanes.HISTORY_MS + 1).marks == ()
    assert len(made.whole(10**6).phases) == 1, "what still holds is told"


def test_the_story_of_a_request() -> None:
    made = picture("a")
    why = ["r stays pending: a: busy: 1 s of prompts before it"]
    made.event(10, event("pending", request="r", prompt_tokens=9, reasons=why))
    made.event(20, event("admitted", request="r", instance="a", turn=3, reasons=["was pending"]))
    made.report(30, report(Phase.FUSED, prefilled=("r",)))
    made.report(40, report(Phase.DECODE, started=(Started("r", 1),)))
    made.report(50, report(Phase.DECODE, finished=(Finished("r", FinishReason.STOP, 4),)))
    limits = {"limit_ttft_ms": 100.0, "limit_tpot_ms": 10.0}
    times = {"ttft_ms": 20.0, "tpot_ms": 5.0, "gateway_ms": 0.5}
    made.event(60, event("answered", request="r", instance="a", outcome="stop", **limits, **times))
    [track] = made.tracks.find("r")
    assert [what for _, what, _ in track.story] == [
        "waits for admission",
        "admitted to a, turn 3",
        "prefilled",
        "decode began",
        "ended: stop",
    ]
    assert track.story[0][2] == "a: busy: 1 s of prompts before it"
    assert (track.state, track.ledger["gateway_ms"]) == ("answered", 0.5)
    made.second(1000)
    [point] = step_of(made, 1000).points
    assert (point.attainment, point.ttft_p99_ms, point.goodput) == (1.0, 20.0, 1.0)


def test_what_is_late_counts_for_no_goodput() -> None:
    made = picture("a")
    limits = {"limit_ttft_ms": 100.0, "limit_tpot_ms": 10.0}
    made.event(
        9, event("answered", request="r", instance="a", outcome="stop", ttft_ms=101.0, **limits)
    )
    made.event(10, event("answered", request="s", outcome="CapacityError", **limits))
    made.event(11, event("answered", request="t", outcome="cancelled", **limits))
    made.event(12, event("answered", request="u", outcome="ApiError", **limits))
    made.second(1000)
    [point] = step_of(made, 1000).points
    assert (point.rate, point.goodput, point.attainment) == (2.0, 0.0, 0.0)


def test_figures_forget_what_left_the_window() -> None:
    figures = Figures()
    for number in range(100):
        figures.ended(number * 100, float(number), None, met=True)
    assert figures.point(10_000).ttft_p50_ms == 49.0
    assert figures.point(10_000).ttft_p99_ms == 98.0
    later = figures.point(25_000)
    assert (later.rate, later.attainment, later.ttft_p50_ms) == (0.0, None, None)


def test_memory_is_bounded() -> None:
    made = picture("a")
    for number in range(tracks.MAX_TRACKS + 50):
        made.event(number, event("admitted", request=f"r{number}", instance="a", turn=1))
    step = step_of(made, 10)
    assert len(step.requests) == tracks.MAX_SENT
    assert not made.tracks.find("r0"), "the oldest are forgotten"
    assert made.tracks.find(f"r{tracks.MAX_TRACKS}")
    assert len(made.whole(10**5).marks) <= lanes.MAX_CHANGES


def test_who_ran_before_anybody_watched_is_found() -> None:
    made = picture("a")
    live = RequestProgress(
        request_id="old",
        prompt_tokens=5,
        max_tokens=10,
        predicted_tokens=10,
        tokens_out=3,
        slo=Slo(ttft_s=1.0, tpot_s=0.1),
        age_s=9.0,
        decode_age_s=8.0,
    )
    made.report(10, report(Phase.DECODE, members=(live,)))
    [track] = made.tracks.find("old")
    assert (track.state, track.instance, track.tokens) == ("decoding", "a", 3)
