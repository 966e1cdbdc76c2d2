"""The rivals: a pipeline that mixes phases, scheduled as vLLM does it.

P micro-batches are in the pipe at most. A request decodes in the micro-batch that ended its
prefill; nothing moves between them. All share one queue and one KV pool, which is kinder to them
than vLLM 0.6's engine for each micro-batch with its part of the pool.
"""

from __future__ import annotations

from rondo.policy.plan import Job, PlanItem
from rondo.policy.tdpipe.base import PipeScheduler, PipeSetup, PipeStep


class MicroBatchScheduler(PipeScheduler):
    """Slots in turn; what a step brings decodes in its slot."""

    def __init__(self, setup: PipeSetup) -> None:
        super().__init__(setup)
        self._next_slot = 0
        self._slots: dict[str, int] = {}  # of jobs that are prefilled and join their batch next
        self._slot_of_step: dict[int, int] = {}  # of steps in the pipe

    def _plan(self, now_s: float) -> PipeStep | None:
        for ahead in range(self.num_stages):
            slot = (self._next_slot + ahead) % self.num_stages
            if slot in self._slot_of_step.values():
                continue
            self._join(slot)
            if step := self._plan_slot(slot):
                self._slot_of_step[step.number] = slot
                self._next_slot = (slot + 1) % self.num_stages
                return step
        return None

    def _plan_slot(self, slot: int) -> PipeStep | None:
        raise NotImplementedError

    def _after(self, step: PipeStep, fresh: list[Job]) -> None:
        slot = self._slot_of_step.pop(step.number)
        self._slots |= {job.request_id: slot for job in fresh}

    def _join(self, slot: int) -> None:
        for request_id in [each for each, home in self._slots.items() if home == slot]:
            del self._slots[request_id]
            if job := self.board.held.get(request_id):
                self.board.join(job, slot)

    def _take(self, budget: int, slot: int, *, split: bool) -> list[PlanItem]:
        """Chunks of waiting prompts; a part of the pool stays free for those that decode."""
        board, settings = self.board, self.settings
        room = settings.max_batch - len(board.batches[slot])
        spare = int(settings.watermark * board.ledger.num_blocks) if board.num_live else 0
        return board.take_chunks(budget, room, spare_blocks=spare, split=split)


class SeparateScheduler(MicroBatchScheduler):
    """`pp-separate`: a step has prompts or decodes, prompts first (vLLM before chunked prefill)."""

    def _plan_slot(self, slot: int) -> PipeStep | None:
        if chunks := self._take(self.settings.prefill_tokens, slot, split=False):
            return self._counted(self._step(chunks, None), prefill=True)
        self.board.grow(slot)
        if not self.board.batches[slot]:
            return None
        return self._counted(self._step([], slot), prefill=False)

    def __init__(self, setup: PipeSetup) -> None:
        super().__init__(setup)
        self._prefilled_last = True

    def _counted(self, step: PipeStep, *, prefill: bool) -> PipeStep:
        self.num_phase_switches += prefill is not self._prefilled_last
        self._prefilled_last = prefill
        return step


class HybridScheduler(MicroBatchScheduler):
    """`pp-hybrid`: every step has what decodes in its slot, then prompt chunks up to the budget
    (Sarathi; vLLM 1.x)."""

    def _plan_slot(self, slot: int) -> PipeStep | None:
        board = self.board
        board.grow(slot)
        batch = board.batches[slot]
        chunks = self._take(self.settings.budget_tokens - len(batch), slot, split=True)
        if not batch and not chunks:
            return None
        return self._step(chunks, slot if batch else None)
