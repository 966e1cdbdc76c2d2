"""Asks instances for news while requests wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rondo.types import Phase
from rondo.wire.messages import ReportOften
from rondo_coordinator.members import Member

#: An instance is asked again after this time, for a little longer than that.
ASK_S = 1.0
FOR_S = 1.2


class News:
    """Instances report the progress of their decodes at leisure, unless they are asked.

    A request that waits for admission is tried again whenever an instance reports, so what holds
    it back, such as too little saved TPOT, would be over long before anybody looked.

    Args:
        macro_id, epoch: who asks.
        command: sends a command to an instance.
    """

    def __init__(
        self, macro_id: str, epoch: int, command: Callable[[str, ReportOften], None]
    ) -> None:
        self._order = ReportOften(epoch=epoch, macro_id=macro_id, for_s=FOR_S)
        self._command = command
        self._asked_s = float("-inf")

    def waited_for(self, members: Iterable[Member], now_s: float) -> None:
        """Requests wait; an instance that does nothing has no news."""
        if now_s - self._asked_s < ASK_S:
            return
        self._asked_s = now_s
        for member in members:
            if member.progress and member.progress.phase is not Phase.IDLE:
                self._command(member.record.instance_id, self._order)
