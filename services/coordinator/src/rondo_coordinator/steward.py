"""Who belongs to which macro-instance of a model, and how many instances there should be.

The owner of the model's first macro-instance says it. Decides nothing itself: `Fleet` (mitosis)
and `ScalingTrigger` do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, count

from rondo.bus import subjects
from rondo.policy.fleet import Fleet, describe
from rondo.policy.mitosis import ScalingEffect
from rondo.policy.scaling import ScalingTrigger, Verdict
from rondo.policy.windows import LoadWindows
from rondo.service import logs
from rondo.types import Group, MacroLoad
from rondo.wire import messages as m
from rondo_coordinator.scaling_journal import ScalingJournal, StepLine, WindowLine
from rondo_coordinator.settings import Scaling, ScalingSettings

log = logging.getLogger("rondo.coordinator")


class Steward:
    """One model's, under one epoch.

    Args:
        groups, wanted: what the owner before left: who belongs where, and how many there should be.
        changed: called when who belongs where has changed.
        publish: sends an event. order: sends the ScalingRecord to whoever starts instances.
        journal: where what was seen and decided is recorded.
    """

    def __init__(
        self,
        model: str,
        epoch: int,
        settings: ScalingSettings,
        groups: Iterable[Group],
        wanted: int | None,
        *,
        changed: Callable[[], None],
        publish: Callable[[str, m.Fields], None],
        order: Callable[[m.ScalingRecord], None],
        journal: ScalingJournal | None = None,
    ) -> None:
        self._model = model
        self._epoch = epoch
        self._settings = settings
        self._changed = changed
        self._publish = publish
        self._order = order
        self._journal = journal
        first_id = subjects.macro_id_of(model)
        names = chain([first_id], (subjects.further_macro_id(first_id, n) for n in count(2)))
        self._fleet = Fleet(names, settings.mitosis(), groups, settings.instance_grace_s)
        self._trigger = ScalingTrigger(settings.trigger())
        self._windows = LoadWindows()
        self._wanted = wanted
        self._next_window_s = float("-inf")

    @property
    def num_wanted(self) -> int | None:
        """How many instances there should be; None until that is known."""
        return self._wanted

    @property
    def groups(self) -> tuple[Group, ...]:
        """Who belongs to which macro-instance."""
        return self._fleet.groups

    def close(self) -> None:
        """Somebody else does it now."""
        if self._journal:
            self._journal.close()

    # Who is there

    def begin(self, present: Iterable[str], at_s: float) -> None:
        """Takes over."""
        self._note(self._fleet.begin(present, at_s), "a new owner")

    def came(self, instance_id: str) -> None:
        """An instance registered."""
        self._note(self._fleet.came(instance_id), "it registered")

    def went(self, instance_id: str, at_s: float) -> None:
        """An instance's record is gone."""
        self._fleet.went(instance_id, at_s)

    def reported(self, instance_id: str, num_requests: int) -> None:
        """An instance said how many requests it has."""
        if not num_requests and self._fleet.idle(instance_id):
            self._changed()
            self._send(f"{instance_id} has nothing left")

    # Time

    def tick(
        self,
        at_s: float,
        records: Iterable[m.MacroRecord],
        loads: Mapping[str, float],
    ) -> None:
        """Some time has passed.

        Args:
            records: of all macro-instances of the model. loads: requests on each instance.
        """
        retired = self._fleet.retired
        if effects := self._fleet.tick(at_s):
            self._note(effects, "it was away for too long")
        if self._fleet.retired != retired:
            self._send("what had nothing left has ended")
        if self._settings.scaling is Scaling.OFF or at_s < self._next_window_s:
            return
        self._next_window_s = at_s + self._settings.scaling_window_s
        seen = [(record.macro_id, record.epoch, record.load) for record in records]
        self._scale(at_s, seen, loads)

    def _scale(
        self, at_s: float, seen: list[tuple[str, int, MacroLoad]], loads: Mapping[str, float]
    ) -> None:
        num = self._fleet.num_serving
        window = self._windows.close(seen, num, at_s)
        if window is None:
            self._wanted = max(self._wanted or num, self._settings.min_instances)
            self._send("a new owner")
            return
        decision = self._trigger.observe(window)
        if self._journal:
            self._journal.add(WindowLine(window=window, decision=decision))
        rate = (window.num_served + window.num_refused) / window.duration_s
        if decision.verdict is Verdict.HOLD:
            logs.info(log, "scaling_hold", model=self._model, reason=decision.reason, rate=rate)
            return
        expand = decision.verdict is Verdict.EXPAND
        wanted = num + 1 if expand else num - 1
        self._publish(
            "scaling",
            {
                "model": self._model,
                "from": num,
                "to": wanted,
                "reason": decision.reason,
                "carried_out": self._settings.scaling is Scaling.ON,
            },
        )
        logs.info(log, "scaling", model=self._model, to=wanted, reason=decision.reason)
        if self._settings.scaling is Scaling.ON:
            self._wanted = wanted
            effects = self._fleet.expand() if expand else self._fleet.contract(loads)
            self._note(effects, decision.reason)
            self._send(decision.reason)

    # What is told

    def _note(self, effects: Iterable[ScalingEffect], reason: str) -> None:
        """Publishes what was decided, and why; the groups follow in the owner's record."""
        for effect in effects:
            what = describe(effect)
            if self._journal:
                self._journal.add(StepLine(at_s=time.monotonic(), what=what, reason=reason))
            self._publish("mitosis", {"model": self._model, "what": what, "reason": reason})
            logs.info(log, "mitosis", model=self._model, what=what, reason=reason)
        self._changed()

    def _send(self, reason: str) -> None:
        if self._settings.scaling is not Scaling.ON or self._wanted is None:
            return
        self._order(
            m.ScalingRecord(
                model=self._model,
                epoch=self._epoch,
                num_wanted=self._wanted,
                num_draining=len(self._fleet.draining),
                stop=self._fleet.retired,
                reason=reason,
            )
        )
