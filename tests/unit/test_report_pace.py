"""How often an instance reports: at leisure, unless something changed or somebody waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from rondo.types import KvOccupancy, Phase, Progress, StepStat
from rondo.wire import messages as m
from rondo_coordinator.members import Member
from rondo_coordinator.news import ASK_S, FOR_S, News
from rondo_worker.reports import COALESCE_S, LEISURE_S, Reporter
from tests.support.virtual_cluster import PROFILE

KV = KvOccupancy(total_blocks=8, used_blocks=1, free_blocks=7, reserved_blocks=0)
STEP = StepStat(Phase.DECODE, 0.02, 1, 1, 0, 0, 1, 64)


@dataclass
class Timer:
    """What `call_later` gives; `run` is when its time has come."""

    delay_s: float
    run: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """An event loop that only notes what it is asked for."""

    timers: list[Timer] = field(default_factory=list)

    def call_later(self, delay_s: float, run: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, run))
        return self.timers[-1]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr("rondo_worker.reports.asyncio.get_running_loop", lambda: loop)
    return loop


def decoded(number: int, **changes: object) -> Progress:
    fields: dict[str, object] = {"steps": (STEP,), **changes}
    return Progress(
        phase=Phase.DECODE,
        turn=1,
        decode_steps=number,
        num_running=1,
        num_waiting=0,
        kv=KV,
        **fields,  # type: ignore[arg-type]
    )


def reporter() -> tuple[Reporter, list[m.StepReport]]:
    sent: list[m.StepReport] = []

    def send(_: str, message: m.Message) -> None:
        assert isinstance(message, m.StepReport)
        sent.append(message)

    one = Reporter("w0", send)
    one.step(decoded(1), ())  # the first is told at once
    assert len(sent) == 1
    return one, sent


def test_mere_progress_is_told_at_leisure_and_loses_nothing(loop: Loop) -> None:
    one, sent = reporter()
    one.step(decoded(2), ())
    one.step(decoded(3), ())
    assert len(sent) == 1
    assert [timer.delay_s for timer in loop.timers] == [LEISURE_S]
    loop.timers[0].run()
    assert [report.progress.decode_steps for report in sent] == [1, 3]
    assert len(sent[1].progress.steps) == 2


def test_what_ends_is_told_at_once_with_what_was_held(loop: Loop) -> None:
    one, sent = reporter()
    one.step(decoded(2), ())
    one.step(decoded(3, prefilled=("a",)), ())
    assert len(sent) == 2
    assert len(sent[1].progress.steps) == 2
    assert loop.timers[0].cancelled


def test_while_requests_wait_nothing_is_held_for_long(loop: Loop) -> None:
    one, sent = reporter()
    one.step(decoded(2), ())
    one.often(60.0)
    assert [report.progress.decode_steps for report in sent] == [1, 2], "news at once"
    one.step(decoded(3), ())
    assert loop.timers[-1].delay_s == COALESCE_S
    loop.timers[-1].run()
    one.often(0.0)
    one.step(decoded(4), ())
    assert loop.timers[-1].delay_s == LEISURE_S, "nobody waits any more"


def member(name: str, phase: Phase | None) -> Member:
    record = m.InstanceRecord(
        instance_id=name,
        incarnation="1",
        model="m",
        engine="e",
        max_model_len=64,
        block_size=16,
        num_blocks=8,
        max_running=4,
        max_prefill_tokens=64,
        profile=PROFILE,
    )
    progress = decoded(1) if phase is Phase.DECODE else None
    return Member(record, 0.0, joined=True, progress=progress)


def test_who_works_is_asked_for_news_once_in_a_while() -> None:
    told: list[tuple[str, m.ReportOften]] = []
    news = News("macro", 3, lambda instance_id, order: told.append((instance_id, order)))
    members = [member("busy", Phase.DECODE), member("new", None)]
    news.waited_for(members, 10.0)
    news.waited_for(members, 10.0 + 0.9 * ASK_S)
    order = m.ReportOften(macro_id="macro", epoch=3, for_s=FOR_S)
    assert told == [("busy", order)]
    assert FOR_S > ASK_S, "there is no gap between one and the next"
    news.waited_for(members, 10.0 + ASK_S)
    assert len(told) == 2
