"""The stewards of those models whose first macro-instance this coordinator owns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.types import Group
from rondo.wire import messages as m
from rondo_coordinator.membership import Membership
from rondo_coordinator.scaling_journal import SUFFIX, ScalingJournal
from rondo_coordinator.scaling_orders import ScalingOrders
from rondo_coordinator.settings import Scaling, ScalingSettings
from rondo_coordinator.steward import Steward


class Stewards:
    """Begins and ends them, and passes on what they have to know."""

    def __init__(
        self,
        bus: Bus,
        coordinator_id: str,
        members: Membership,
        settings: ScalingSettings,
        journals: Path | None,
    ) -> None:
        self._id = coordinator_id
        self._journals = journals
        self._members = members
        self._settings = settings
        self._orders = ScalingOrders(bus) if settings.scaling is Scaling.ON else None
        self._stewards: dict[str, Steward] = {}
        self._loads: dict[str, dict[str, float]] = {}  # model: instance: requests on it

    async def wanted(self, model: str) -> int | None:
        """How many instances the owner before wanted; None if it did not say.

        Raises:
            PeerError: the bus failed.
        """
        return await self._orders.wanted(model) if self._orders else None

    def num_wanted(self) -> dict[str, int]:
        """How many instances each model should have, where that is ordered."""
        if self._orders is None:
            return {}
        found = {model: steward.num_wanted for model, steward in self._stewards.items()}
        return {model: num for model, num in found.items() if num is not None}

    def begin(
        self,
        model: str,
        epoch: int,
        wanted: int | None,
        publish: Callable[[str, m.Fields], None],
        changed: Callable[[], None],
    ) -> None:
        """The first macro-instance of a model is ours."""
        steward = Steward(
            model,
            epoch,
            self._settings,
            self._members.groups(model),
            wanted,
            changed=changed,
            publish=publish,
            order=self._orders.send if self._orders else lambda _: None,
            journal=self._journal(model, epoch),
        )
        self._stewards[model], self._loads[model] = steward, {}
        present = [r.instance_id for r in self._members.instances.values() if r.model == model]
        steward.begin(present, time.monotonic())

    def end(self, model: str) -> None:
        """It is ours no longer."""
        if steward := self._stewards.pop(model, None):
            steward.close()
        self._loads.pop(model, None)

    async def close(self) -> None:
        """Ends all."""
        for model in list(self._stewards):
            self.end(model)
        if self._orders:
            await self._orders.close()

    def _journal(self, model: str, epoch: int) -> ScalingJournal | None:
        if self._journals is None or self._settings.scaling is Scaling.OFF:
            return None
        name = f"{subjects.macro_id_of(model)}-{epoch}-{self._id}{SUFFIX}"
        return ScalingJournal(self._journals / name)

    def groups(self, model: str) -> tuple[Group, ...]:
        """Who belongs where, by our own word; what was said last where it is not ours to say."""
        steward = self._stewards.get(model)
        return steward.groups if steward else self._members.groups(model)

    def came(self, record: m.InstanceRecord) -> None:
        """An instance registered."""
        if steward := self._stewards.get(record.model):
            steward.came(record.instance_id)

    def went(self, record: m.InstanceRecord) -> None:
        """An instance's record is gone."""
        if steward := self._stewards.get(record.model):
            steward.went(record.instance_id, time.monotonic())
            self._loads[record.model].pop(record.instance_id, None)

    def reported(self, report: m.Report) -> None:
        """An instance said something, perhaps what it has."""
        match report:
            case m.StepReport(progress=progress):
                num = progress.num_running + progress.num_waiting
            case m.Beat():
                num = 0
            case _:
                return
        record = self._members.instances.get(report.instance_id)
        if record and (steward := self._stewards.get(record.model)):
            self._loads[record.model][report.instance_id] = num
            steward.reported(report.instance_id, num)

    def tick(self, at_s: float) -> None:
        """Some time has passed."""
        for model, steward in self._stewards.items():
            records = [r for r in self._members.macros.values() if r.model == model]
            steward.tick(at_s, records, self._loads[model])
