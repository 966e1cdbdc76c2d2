"""Who belongs to which macro-instance now, as the buckets say. Pure."""

from __future__ import annotations

from rondo.bus import subjects
from rondo.wire.messages import MacroRecord
from rondo_gateway.console.view import Macro


class Groups:
    """Macro-instances and their members; knows whether they have changed."""

    def __init__(self) -> None:
        self._records: dict[str, MacroRecord] = {}
        self._shown: tuple[Macro, ...] = ()
        self._place: dict[str, str] = {}  # instance: macro-instance

    def update(self, macro_id: str, record: MacroRecord | None) -> str | None:
        """Takes a record in, None for a deleted one; what there is to tell, if anything."""
        before = self._records.get(macro_id)
        if record is None:
            self._records.pop(macro_id, None)
            return f"{macro_id} is no more" if before else None
        self._records[macro_id] = record
        if before and record.owner_id and record.epoch > before.epoch:
            return f"{record.owner_id} took {macro_id} over (epoch {record.epoch})"
        return None

    def refresh(self) -> bool:
        """Works out who belongs where; whether that has changed."""
        members = {macro_id: record.instance_ids for macro_id, record in self._records.items()}
        models = {macro_id: record.model for macro_id, record in self._records.items()}
        for record in self._records.values():
            if record.macro_id == subjects.macro_id_of(record.model):
                for group in record.groups:  # a new one has no record of its own yet
                    members[group.macro_id] = group.instance_ids
                    models[group.macro_id] = record.model
        shown = tuple(self._macro(id, models[id], members[id]) for id in sorted(members))
        if shown == self._shown:
            return False
        self._shown = shown
        self._place = {member: macro.id for macro in shown for member in macro.members}
        return True

    def _macro(self, macro_id: str, model: str, members: tuple[str, ...]) -> Macro:
        record = self._records.get(macro_id)
        owner, epoch = (record.owner_id, record.epoch) if record else ("", 0)
        return Macro(id=macro_id, model=model, owner=owner, epoch=epoch, members=members)

    def place(self, instance_id: str) -> str:
        """The macro-instance of an instance; empty while it has none."""
        return self._place.get(instance_id, "")

    @property
    def shown(self) -> tuple[Macro, ...]:
        """All of them, by id."""
        return self._shown
