"""An emulated engine with several steps in flight, and its scheduler."""

from __future__ import annotations

from collections import deque

from rondo.errors import EngineError
from rondo.perf.profile import LatencyProfile
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import PlanItem, StepPlan
from rondo.policy.tdpipe import PipeInstance, PipeSetup, make_scheduler
from rondo_worker.engines.base import EngineSpec
from rondo_worker.engines.emulated import EmulatedEngine
from rondo_worker.engines.pipeline import StepDone
from rondo_worker.engines.sequences import LiveSequence
from tests.support.services import FAST, ORDINARY, SPEC

NUM_STAGES = 2


class EmulatedPipe(EmulatedEngine):
    """Computes steps in order, each when it is taken; checks them as the emulated engine does.

    Every step with a request named `bad...` fails, and every one in which one named `late...`
    decodes; the error names all requests of the step.
    """

    def __init__(self, profile: LatencyProfile = FAST, spec: EngineSpec = SPEC) -> None:
        super().__init__(spec, profile, ORDINARY)
        self._flying: deque[tuple[StepPlan, list[LiveSequence | None]]] = deque()
        self._number = 0
        self.most_in_flight = 0

    def submit(self, plan: StepPlan) -> int:
        rows = [self._sequences.find(item.request_id) for item in plan.items]
        assert None not in rows
        self._flying.append((plan, rows))
        self.most_in_flight = max(self.most_in_flight, len(self._flying))
        self._number += 1
        return self._number - 1

    def take(self, timeout_s: float | None = None) -> StepDone | None:
        if not self._flying:
            raise EngineError("no step is in flight")
        plan, rows = self._flying.popleft()
        number = self._number - len(self._flying) - 1
        # A request that was removed meanwhile is computed for nobody.
        left = [
            item
            for item, row in zip(plan.items, rows, strict=True)
            if self._sequences.find(item.request_id) is row
        ]
        if not left:
            return StepDone(number)
        try:
            return StepDone(number, self._compute(plan, left))
        except EngineError as error:
            return StepDone(number, error=error)

    def step(self, plan: StepPlan) -> dict[str, int]:
        assert not self._flying, "a step overtakes those in flight"
        return self._compute(plan, list(plan.items))

    def _compute(self, plan: StepPlan, left: list[PlanItem]) -> dict[str, int]:
        ids = {item.request_id for item in left}
        chunks = [item for item in plan.chunks if item.request_id in ids]
        decodes = [item for item in plan.decodes if item.request_id in ids]
        culprits = [item for item in left if item.request_id.startswith("bad")]
        culprits += [item for item in decodes if item.request_id.startswith("late")]
        if culprits:
            raise EngineError("out of luck", tuple(ids))
        kept = StepPlan(plan.phase, chunks, len(decodes), plan.context_tokens, lambda: decodes)
        return super().step(kept)


def new_pipe_instance(
    name: str, spec: EngineSpec, latency: LatencyProfile, max_running: int = 64
) -> PipeInstance:
    """A scheduler for an emulated pipe."""
    setup = PipeSetup(KvLedger(spec.num_blocks, spec.block_size), latency, NUM_STAGES)
    return PipeInstance(
        make_scheduler(name, setup),
        max_running=max_running,
        max_prefill_tokens=512,
        eos_token_ids=spec.eos_token_ids,
    )
