"""What an owner tells its instances beside what its policy decides."""

from __future__ import annotations

import time
from collections.abc import Callable

from rondo.wire import messages as m
from rondo_coordinator.members import Member

#: An instance is told the same at most this often: what it said meanwhile may come in a burst.
REPEAT_S = 0.5
#: Beats travel on a connection of their own, and it may be that one which fell silent: after this
#: share of the time-out the instance is asked.
ASKED_SHARE = 0.6
#: An instance that has no news may beat for so long before it reports in full again.
BEATS_S = 30.0


class Orders:
    """Commands of one macro-instance under one epoch.

    Args:
        command: sends a command to an instance.
    """

    def __init__(
        self, macro_id: str, epoch: int, command: Callable[[str, m.Command], None]
    ) -> None:
        self._macro_id = macro_id
        self._epoch = epoch
        self._command = command
        self._told_s: dict[tuple[str, str], float] = {}  # (instance, what): when

    def report_fully(self, instance_id: str) -> None:
        """Asks for the full state."""
        order = m.SendFullReport(epoch=self._epoch, macro_id=self._macro_id)
        self._command(instance_id, order)

    def report_soon(self, instance_id: str) -> None:
        """Asks for the full state, unless that was done just now."""
        if self._may_tell(instance_id, "report"):
            self.report_fully(instance_id)

    def ask_silent(self, member: Member, share: float) -> None:
        """Asks an instance whose beats do not come, after a share of the time-out."""
        if share > ASKED_SHARE and member.heard_s < member.beats_until_s:
            self.report_soon(member.record.instance_id)

    def may_beat(self, member: Member, now_s: float) -> None:
        """Allows beats for `BEATS_S`, once the last time that was said is over."""
        if now_s >= member.beats_until_s:
            member.beats_until_s = now_s + BEATS_S
            order = m.MayBeat(epoch=self._epoch, macro_id=self._macro_id, for_s=BEATS_S)
            self._command(member.record.instance_id, order)

    def rejoin(self, report: m.Report) -> None:
        """Who was dropped for silence speaks again."""
        if self._may_tell(report.instance_id, "rejoin"):
            order = m.Rejoin(epoch=self._epoch, macro_id=report.macro_id)
            self._command(report.instance_id, order)

    def hand_over(self, instance_id: str, target_id: str) -> None:
        """The instance is to obey another macro-instance."""
        if self._may_tell(instance_id, target_id):
            order = m.HandOver(epoch=self._epoch, macro_id=self._macro_id, target_id=target_id)
            self._command(instance_id, order)

    def _may_tell(self, instance_id: str, what: str) -> bool:
        now_s, key = time.monotonic(), (instance_id, what)
        if now_s - self._told_s.get(key, -REPEAT_S) < REPEAT_S:
            return False
        self._told_s[key] = now_s
        return True
