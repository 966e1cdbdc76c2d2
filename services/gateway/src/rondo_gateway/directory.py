"""What the gateway knows of the cluster: macro-instances and instances, from watched buckets."""

from __future__ import annotations

from collections.abc import Callable

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyUpdate
from rondo.wire.messages import InstanceRecord, MacroRecord


class Directory:
    """Current records, and a call when an instance is gone or has started anew.

    Args:
        on_instance: called with an instance's id and its incarnation now, None when it is gone.
    """

    def __init__(self, on_instance: Callable[[str, str | None], None]) -> None:
        self._on_instance = on_instance
        self._macros: dict[str, MacroRecord] = {}
        self._incarnations: dict[str, str] = {}

    async def start(self, bus: Bus) -> None:
        """Begins to watch."""
        macros = await bus.key_value(subjects.MACROS_BUCKET)
        await macros.watch(self._macro_changed)
        instances = await bus.key_value(subjects.INSTANCES_BUCKET)
        await instances.watch(self._instance_changed)

    def macro(self, model: str) -> MacroRecord | None:
        """The macro-instance that serves a model, when its coordinator has said so."""
        return self._macros.get(subjects.macro_id_of(model))

    def servable(self, model: str) -> bool:
        """Whether the model has an owner and at least one instance."""
        macro = self.macro(model)
        return macro is not None and bool(macro.owner_id) and bool(macro.instance_ids)

    def _macro_changed(self, update: KeyUpdate) -> None:
        if isinstance(update.value, MacroRecord):
            self._macros[update.key] = update.value
        else:
            self._macros.pop(update.key, None)

    def _instance_changed(self, update: KeyUpdate) -> None:
        record = update.value
        incarnation = record.incarnation if isinstance(record, InstanceRecord) else None
        if self._incarnations.get(update.key) == incarnation:
            return
        if incarnation is None:
            self._incarnations.pop(update.key, None)
        else:
            self._incarnations[update.key] = incarnation
        self._on_instance(update.key, incarnation)
