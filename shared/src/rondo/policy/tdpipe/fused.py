"""`tdpipe-fused`: phases apart at large, and the prefill phase carries the decodes along.

Ours, after TD-Pipe. Decodes beside a chunk of prompt cost little, since both pass the same
matrices; so the batches go on circulating while prompts are taken, each step filled with prompt
tokens up to the rows at which a row costs least. When the simulated KV use reaches its limit, a
decode phase follows, until `resume_share` of the pool is all that the forecast still fills. Batches
are balanced and sized to the tiles (`sizing`), and long answers begin in time (`order`).
"""

from __future__ import annotations

import msgspec

from rondo.policy.plan import PlanItem
from rondo.policy.tdpipe.base import PipeSetup, PipeStep
from rondo.policy.tdpipe.order import Pace, in_time
from rondo.policy.tdpipe.phases import TdPipeScheduler
from rondo.policy.tdpipe.sizing import best_rows


class FusedScheduler(TdPipeScheduler):
    """Phases that differ in whether steps take prompts; decodes go on in both."""

    def __init__(self, setup: PipeSetup) -> None:
        fused = setup.settings.fused
        super().__init__(
            setup,
            msgspec.structs.replace(
                setup.settings.tdpipe,
                size=fused.size,
                level=fused.level,
                kv_share=fused.kv_share,
            ),
        )
        self.fused = fused
        self._num_rounds = 0
        self._num_ordered = 0  # requests that came before the queue was put in order last

    def _plan(self, now_s: float) -> PipeStep | None:
        if self.num_in_flight >= self.num_stages:
            return None
        self._begin_round()
        slot = self._fill_next()
        chunks = self._chunks(len(self.board.batches[slot]) if slot is not None else 0)
        if slot is None and not chunks:
            return None
        return self._step(chunks, slot)

    def _begin_round(self) -> None:
        """Once in P steps: looks ahead, and changes the phase where that says so."""
        self._num_rounds += 1
        board = self.board
        if (self._num_rounds - 1) % self.num_stages and board.num_decoding:
            return
        if not board.waiting:
            return
        self._put_in_order()
        self._forecast_live()
        if not self.prefilling and self._has_room():
            self._turn_to(prefill=True)

    def _put_in_order(self) -> None:
        """The queue in its order; again when requests came."""
        board, fused = self.board, self.fused
        if not fused.order or self._num_ordered == board.num_entered:
            return
        self._num_ordered = board.num_entered
        pool_tokens = board.ledger.num_blocks * board.ledger.block_size
        pace = Pace(self.num_stages * fused.step_tokens, fused.kv_share * pool_tokens)
        board.waiting = in_time(
            board.waiting, lambda job: self.remaining.expect(job, 0), pace, fused.tail
        )

    def _chunks(self, batch: int) -> list[PlanItem]:
        """Prompt chunks beside a batch of so many decodes."""
        board = self.board
        if not self.prefilling or not board.waiting:
            return []
        live = board.num_live
        if not live:
            self._forecast_live()
        slots = self.num_stages * self.settings.max_batch - live
        most = self.fused.step_tokens
        rows = best_rows(self.latency, batch, most, self._context()) if batch else most
        chunks = board.take_chunks(rows - batch, slots, spare_blocks=live, split=True, gate=self)
        if live and self.is_full():
            self._turn_to(prefill=False)
        return chunks

    def _has_room(self) -> bool:
        """Whether so much has ended that a prefill phase is worth beginning."""
        limit = self.fused.resume_share * self.board.ledger.num_blocks
        return not self.board.num_live or self.forecast.peak_blocks <= limit
