"""What the gateway knows of the cluster: macro-instances and instances, from watched buckets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyUpdate
from rondo.policy.overall import MacroSummary, OverallScheduler
from rondo.types import RequestInfo
from rondo.wire.messages import InstanceRecord, MacroRecord


class Directory:
    """Current records, and a call when an instance is gone or has started anew.

    Args:
        on_instance: called with an instance's id and its incarnation now, None when it is gone.
    """

    def __init__(self, on_instance: Callable[[str, str | None], None]) -> None:
        self._on_instance = on_instance
        self._macros: dict[str, MacroRecord] = {}
        self._overall = OverallScheduler()
        self._incarnations: dict[str, str] = {}
        self._takeovers: dict[str, asyncio.Future[None]] = {}

    async def start(self, bus: Bus) -> None:
        """Begins to watch."""
        macros = await bus.key_value(subjects.MACROS_BUCKET)
        await macros.watch(self._macro_changed)
        instances = await bus.key_value(subjects.INSTANCES_BUCKET)
        await instances.watch(self._instance_changed)

    def macros(self, model: str) -> list[MacroRecord]:
        """The macro-instances that serve a model now: they have an owner and instances."""
        return [
            macro
            for macro in self._macros.values()
            if macro.model == model and macro.owner_id and macro.instance_ids
        ]

    def servable(self, model: str) -> bool:
        """Whether there is one."""
        return bool(self.macros(model))

    def max_model_len(self, model: str) -> int:
        """What the largest instance of a model can hold, in tokens; 0 when there is none."""
        return max((macro.max_model_len for macro in self.macros(model)), default=0)

    def choose(self, model: str, request: RequestInfo) -> str:
        """The macro-instance to ask; the model's first when none could take the request.

        Its owner then says why not, or lets it wait.
        """
        chosen = self._overall.choose(model, request, time.monotonic())
        return chosen or subjects.macro_id_of(model)

    def owned(self, macro_id: str) -> bool:
        """Whether somebody would answer for it."""
        macro = self._macros.get(macro_id)
        return macro is not None and bool(macro.owner_id)

    def present(self, instance_id: str) -> bool:
        """Whether the instance is there."""
        return instance_id in self._incarnations

    def takeover(self, macro_id: str) -> asyncio.Future[None]:
        """Done when a macro-instance has another owner, who has to be asked anew."""
        if macro_id not in self._takeovers:
            self._takeovers[macro_id] = asyncio.get_running_loop().create_future()
        return self._takeovers[macro_id]

    def _macro_changed(self, update: KeyUpdate) -> None:
        macro = update.value
        if not isinstance(macro, MacroRecord):
            self._macros.pop(update.key, None)
            self._overall.remove(update.key)
            return
        before = self._macros.get(update.key)
        self._macros[update.key] = macro
        taken_over = macro.owner_id and before and macro.epoch > before.epoch
        if taken_over and (waiting := self._takeovers.pop(update.key, None)):
            waiting.set_result(None)
        if not macro.owner_id or not macro.instance_ids:
            self._overall.remove(update.key)
            return
        summary = MacroSummary(
            model=macro.model,
            num_instances=len(macro.instance_ids),
            num_pending=macro.load.num_pending,
            num_running=macro.load.num_running,
            max_model_len=macro.max_model_len,
            free_blocks=macro.load.free_blocks,
            block_size=macro.load.block_size,
        )
        self._overall.update(update.key, summary, time.monotonic())

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
