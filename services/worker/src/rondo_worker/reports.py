"""Reports on their way out: coalesced over steps, sent at once when something changed.

Steps in which nothing began or ended are told at leisure: they change no more than how far the
running answers have come, of which a scheduler needs to know little while nothing waits for it.
While requests do wait, it says so (`ReportOften`), and progress is told nearly step by step.
An instance that has nothing to do and nothing to tell beats, if its scheduler listens to that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec

from rondo.bus import subjects
from rondo.bus.sequence import Sequencer
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.types import Phase, Progress
from rondo.wire.messages import Beat, Message, Report, StepReport, TurnBegan, TurnEnded

#: Steps in which nothing began or ended are reported together, this far apart: as a rule, and
#: while requests wait for the instance's progress.
LEISURE_S = 0.25
COALESCE_S = 0.02


class Reporter:
    """Sends an instance's reports in order, each with its number."""

    def __init__(self, instance_id: str, send: Callable[[str, Message], None]) -> None:
        self._instance_id = instance_id
        self._subject = subjects.report(instance_id)
        self._beats = subjects.beat(instance_id)
        self._send = send
        self._held: Progress | None = None
        self._often_until_s = float("-inf")
        self._beats_until_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._last: Progress | None = None
        self.sent_s = float("-inf")
        """When the last report was sent."""
        self.incarnation = ""
        self.macro_id, self.epoch = "", 0  # whom the instance obeys
        self._sequencer = Sequencer()

    def restart(self, incarnation: str) -> None:
        """Starts the numbers of a new incarnation, which obeys nobody yet."""
        self.incarnation, self._sequencer = incarnation, Sequencer()
        self._obey("", 0)
        self._held = None

    def obeys(self, macro_id: str, epoch: int) -> bool:
        """Whether a command counts: it is of the macro-instance's present owner, or the first."""
        if self.macro_id not in ("", macro_id) or epoch < self.epoch:
            return False
        if (macro_id, epoch) != (self.macro_id, self.epoch):
            self._obey(macro_id, epoch)
        return True

    def obey(self, macro_id: str) -> None:
        """From now on another macro-instance's commands count, whatever their epoch."""
        self._obey(macro_id, 0)

    def _obey(self, macro_id: str, epoch: int) -> None:
        self.macro_id, self.epoch = macro_id, epoch
        self._beats_until_s = float("-inf")  # another owner may not listen to them

    @property
    def last(self) -> Progress | None:
        """The last state that was reported or held."""
        return self._last

    def step(self, progress: Progress, turn_events: Iterable[TurnStart | TurnEnd]) -> None:
        """Takes in what a step brought."""
        previous, self._last = self._last, progress
        for event in turn_events:
            self.flush()
            self._emit(self._turn_report(event))
        self._held = _merge(self._held, progress)
        changed = bool(progress.prefilled or progress.started or progress.finished)
        urgent = changed or progress.members is not None
        if urgent or previous is None or previous.phase is not progress.phase:
            self.flush()
        elif self._timer is None:
            often = time.monotonic() < self._often_until_s
            delay_s = COALESCE_S if often else LEISURE_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.flush)

    def often(self, for_s: float) -> None:
        """Somebody waits for news: sends what is held, and for `for_s` nothing is held for long."""
        self._often_until_s = time.monotonic() + for_s
        self.flush()

    def may_beat(self, for_s: float) -> None:
        """For so long the owner takes beats for full reports that would say nothing new."""
        self._beats_until_s = time.monotonic() + for_s

    @property
    def no_news(self) -> bool:
        """Whether a beat says all: the last report was of an idle instance, and beats are heard."""
        last = self._last
        if last is None or self._held is not None or time.monotonic() >= self._beats_until_s:
            return False
        return last.phase is Phase.IDLE and not (last.num_running or last.num_waiting)

    def beat(self, idle: Callable[[], bool]) -> None:
        """Says that the instance lives and has no news, where that is so and it is `idle`."""
        if idle() and self.no_news:
            self.sent_s = time.monotonic()
            beat = Beat(
                instance_id=self._instance_id,
                incarnation=self.incarnation,
                epoch=self.epoch,
                macro_id=self.macro_id,
                seq=self._sequencer.upcoming(),
            )
            self._send(self._beats, beat)

    def flush(self) -> None:
        """Sends what is held."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._held is not None:
            progress, self._held = self._held, None
            self._emit(
                StepReport(
                    instance_id=self._instance_id,
                    incarnation=self.incarnation,
                    epoch=self.epoch,
                    macro_id=self.macro_id,
                    seq=self._sequencer.next(),
                    progress=progress,
                )
            )

    def close(self) -> None:
        """Drops the timer."""
        if self._timer:
            self._timer.cancel()

    def _turn_report(self, event: TurnStart | TurnEnd) -> Report:
        if isinstance(event, TurnStart):
            return TurnBegan(
                instance_id=self._instance_id,
                incarnation=self.incarnation,
                epoch=self.epoch,
                macro_id=self.macro_id,
                seq=self._sequencer.next(),
                turn=event.turn,
                waited_s=event.waited_s,
            )
        return TurnEnded(
            instance_id=self._instance_id,
            incarnation=self.incarnation,
            epoch=self.epoch,
            macro_id=self.macro_id,
            seq=self._sequencer.next(),
            turn=event.turn,
            duration_s=event.duration_s,
            num_prefilled=event.num_prefilled,
            prefill_tokens=event.prefill_tokens,
            leftover=event.leftover,
        )

    def _emit(self, report: Report) -> None:
        self.sent_s = time.monotonic()
        self._send(self._subject, report)


def _merge(held: Progress | None, new: Progress) -> Progress:
    """Later state, and everything that happened in both."""
    if held is None:
        return new
    return msgspec.structs.replace(
        new,
        found=held.found + new.found,
        prefilled=held.prefilled + new.prefilled,
        started=held.started + new.started,
        finished=held.finished + new.finished,
        steps=held.steps + new.steps,
    )
