"""Who is there and who belongs where, as the watched buckets say."""

from __future__ import annotations

from rondo.bus import subjects
from rondo.bus.protocol import KeyUpdate
from rondo.types import Group
from rondo.wire.messages import InstanceRecord, MacroRecord


class Membership:
    """Instances, macro-instances and their owners, and which instance belongs to which.

    The last is said by the record of a model's first macro-instance, so that one owner decides it
    and everybody sees all of a change at once.
    """

    def __init__(self) -> None:
        self.instances: dict[str, InstanceRecord] = {}
        self.macros: dict[str, MacroRecord] = {}
        self._places: dict[str, dict[str, str]] = {}  # model: instance: macro-instance

    def instance_changed(self, update: KeyUpdate) -> InstanceRecord | None:
        """Takes in what the bucket of instances says; returns the record before."""
        before = self.instances.pop(update.key, None)
        if isinstance(update.value, InstanceRecord):
            self.instances[update.key] = update.value
        return before

    def macro_changed(self, update: KeyUpdate) -> bool:
        """Takes in what the bucket of macro-instances says; whether owners or places changed."""
        before = self.macros.pop(update.key, None)
        record = update.value
        if not isinstance(record, MacroRecord):
            return before is not None
        self.macros[update.key] = record
        if before and before.owner_id == record.owner_id and before.groups == record.groups:
            return False
        if update.key == subjects.macro_id_of(record.model):
            self._places[record.model] = {
                instance_id: group.macro_id
                for group in record.groups
                for instance_id in group.instance_ids
            }
        return True

    def groups(self, model: str) -> tuple[Group, ...]:
        """Who belongs where, as it was said last."""
        first = self.macros.get(subjects.macro_id_of(model))
        return first.groups if first else ()

    def macro_ids(self, model: str) -> list[str]:
        """The macro-instances that a model should have; the first is always one."""
        first_id = subjects.macro_id_of(model)
        further = (group.macro_id for group in self.groups(model))
        return [first_id, *(macro_id for macro_id in further if macro_id != first_id)]

    def owned(self, macro_id: str) -> bool:
        """Whether somebody owns it."""
        record = self.macros.get(macro_id)
        return record is not None and bool(record.owner_id)

    def place(self, instance_id: str) -> str | None:
        """The macro-instance that the instance takes requests of; None if of none."""
        record = self.instances.get(instance_id)
        if record is None or record.draining:
            return None
        return self._places.get(record.model, {}).get(instance_id)

    def members(self, macro_id: str, model: str) -> list[InstanceRecord]:
        """Instances that belong to a macro-instance and are there."""
        return [
            record
            for record in self.instances.values()
            if record.model == model and self.place(record.instance_id) == macro_id
        ]
