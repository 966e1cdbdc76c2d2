"""TD-Pipe: prefill and decode apart in time on one pipeline (arXiv 2506.10470, section 3).

Prefill steps follow one another without a look at what comes out behind, until the memory that the
answers will need is spoken for; then P decode batches circulate until going back pays. Deviations
from the paper: a prefill phase in which nothing would fit is not begun, and the intensities are
compared when requests ended since the last time, not in every round. Ours, where asked for: batches
sized to the tiles, whose spatial intensity is told beside the batches with which the phase began;
and even prefill steps, whose last one wastes rows, which temporal intensity counts.
"""

from __future__ import annotations

from collections.abc import Collection

from rondo.policy.plan import Job, PlanItem, StepOutcome
from rondo.policy.tdpipe.base import PipeScheduler, PipeSetup, PipeStep
from rondo.policy.tdpipe.forecast import KvForecast
from rondo.policy.tdpipe.intensity import Intensity
from rondo.policy.tdpipe.remaining import RemainingTokens
from rondo.policy.tdpipe.settings import TdPipeSettings
from rondo.policy.tdpipe.sizing import best_batch, even_rows
from rondo.policy.tdpipe.stealing import Balancer, Levelling, Staying, Stealing, fair_share

#: The intensities are compared again when one in so many of the requests has ended.
COMPARE_PART = 64


class TdPipeScheduler(PipeScheduler):
    """Phases apart; each part of the paper can be switched off in `TdPipeSettings`."""

    def __init__(self, setup: PipeSetup, knobs: TdPipeSettings | None = None) -> None:
        super().__init__(setup)
        self.knobs = knobs = knobs or setup.settings.tdpipe
        self.prefilling = True
        self.forecast = KvForecast(knobs.points, setup.ledger.block_size)
        self.intensity = Intensity(setup.latency, setup.num_stages)
        self.remaining = RemainingTokens(predict=knobs.predict, first_guess=knobs.first_guess)
        self.balancer = self._balancer()
        self._next_slot = 0
        self._num_before = 0  # requests that decoded when the phase began
        self._num_compared = 0  # and when the intensities were compared last
        self._prefill_rows = setup.settings.prefill_tokens  # of a step of this phase

    def on_step_done(
        self, step: PipeStep, now_s: float, stopped: Collection[str] = ()
    ) -> StepOutcome:
        """See PipeScheduler; learns the lengths of the answers that ended."""
        outcome = super().on_step_done(step, now_s, stopped)
        for finished in outcome.finished:
            self.remaining.ended(finished.tokens_out)
        return outcome

    # Steps

    def _plan(self, now_s: float) -> PipeStep | None:
        if not self.prefilling and self.board.waiting and self._should_return():
            self._turn_to(prefill=True)
        if self.prefilling:
            if self.num_in_flight >= self.num_stages + self.knobs.prefill_ahead:
                return None
            if chunks := self._prompt_chunks():
                return self._step(chunks, None)
            if not self.board.num_decoding:
                return None  # what is in the pipe comes back first
            self._turn_to(prefill=False)
        return self._decode_step()

    def _balancer(self) -> Balancer:
        if not self.knobs.steal:
            return Staying(self.board)
        return Levelling(self.board, self.remaining) if self.knobs.level else Stealing(self.board)

    def _turn_to(self, *, prefill: bool) -> None:
        self.prefilling = prefill
        self.num_phase_switches += 1
        self._num_before = self._num_compared = self.board.num_live
        if prefill:
            self._forecast_live()
            self._prefill_rows = self._step_rows()

    def _decode_step(self) -> PipeStep | None:
        """The next batch that is at home and not empty."""
        slot = self._fill_next()
        return None if slot is None else self._step([], slot)

    def _fill_next(self) -> int | None:
        """Makes the next batch that is at home ready; None: there is none with a request."""
        for ahead in range(self.num_stages):
            slot = (self._next_slot + ahead) % self.num_stages
            if self.board.away[slot]:
                continue
            self.balancer.fill(slot, self._share(slot))
            self.board.grow(slot)
            if self.board.batches[slot]:
                self._next_slot = (slot + 1) % self.num_stages
                return slot
        return None

    def _share(self, slot: int) -> int:
        """Requests that batch `slot` is to have."""
        share = fair_share(self.board.num_live, self.num_stages, slot)
        share = min(max(1, share), self.settings.max_batch)
        return best_batch(self.latency, share, self._context()) if self.knobs.size else share

    def _context(self) -> float:
        """Mean cached tokens of those that are in batches."""
        board = self.board
        return sum(batch.context_tokens for batch in board.batches) / max(1, len(board.home))

    # Prefill

    def _prompt_chunks(self) -> list[PlanItem]:
        """Whole prompts for a step; none when the phase is over."""
        live = self.board.num_live
        if not live:
            self._forecast_live()  # answers that ended at once are still in it
        slots = self.num_stages * self.settings.max_batch - live
        # A block for each that is live keeps them from preempting this one at once.
        return self.board.take_chunks(
            self._prefill_rows, slots, spare_blocks=live, split=self.knobs.even, gate=self
        )

    def _step_rows(self) -> int:
        """Prompt tokens of a prefill step that follows decode steps."""
        most = self.settings.prefill_tokens
        if not self.knobs.even or not self.board.num_live:
            return most
        context = self._context()
        batch = self._share(0)
        decode_s = self.latency.step_s(0, 0, batch, round(batch * context))
        return even_rows(self.latency, most, decode_s)

    def is_full(self) -> bool:
        """Whether the prefill phase is to take no more prompts."""
        ledger = self.board.ledger
        if self.knobs.greedy:
            return self.forecast.peak_blocks >= self.knobs.kv_share * ledger.num_blocks
        used = ledger.num_blocks - ledger.num_free
        return used >= self.knobs.fixed_fill * ledger.num_blocks

    def begins(self, job: Job) -> None:
        """Counts a prompt that begins."""
        self.forecast.add(job.known, self.remaining.expect(job, job.tokens_out))

    def _forecast_live(self) -> None:
        """Counts anew all that are prefilled, or in the pipe to be."""
        board, forecast = self.board, self.forecast
        forecast.clear()
        for job in board.prefilled():
            tokens_out = job.tokens_out + board.gained(job)
            forecast.add(job.prompt_tokens + tokens_out, self.remaining.expect(job, tokens_out))
        for request_id in board.sent:
            job = board.jobs[request_id]
            forecast.add(job.known, self.remaining.expect(job, job.tokens_out))

    # The way back

    def _should_return(self) -> bool:
        live = self.board.num_live
        if not live:
            return True
        if not self.knobs.compare:
            return live <= (1 - self.knobs.fixed_return) * self._num_before
        if self._num_compared - live < max(1, live // COMPARE_PART):
            return False
        self._num_compared = live
        context = self._context()
        spatial = self._spatial(live // self.num_stages, context)
        prompts = self._fitting_prompts()
        if spatial >= 1.0 or not prompts:
            return False
        after = (live + len(prompts)) // self.num_stages
        decode_s = self.intensity.decode_s(after, context)
        rows, even = self._step_rows(), self.knobs.even
        phase = self.intensity.simulate(prompts, rows, split=even)
        return spatial < self.intensity.temporal(phase, decode_s)

    def _spatial(self, batch: int, context: float) -> float:
        """Spatial intensity of batches of this size. With sizing, beside those with which the phase
        began: the pool need not have room for any that saturate a stage."""
        if not self.knobs.size:
            return self.intensity.spatial(batch, context, self.knobs.reference_batch)
        sizes = [
            best_batch(self.latency, max(1, each), context)
            for each in (batch, self._num_before // self.num_stages)
        ]
        return self.intensity.spatial(sizes[0], context, sizes[1])

    def _fitting_prompts(self) -> list[int]:
        """Tokens of the prompts that a prefill phase would take, if it began now."""
        board, forecast = self.board, self.forecast
        self._forecast_live()
        limit = self.knobs.kv_share * board.ledger.num_blocks
        free = board.ledger.num_free - board.num_live
        prompts: list[int] = []
        for job in board.waiting.values():
            free -= board.ledger.missing(job.request_id, job.known)
            if free < 0 or forecast.peak_blocks >= limit:
                break
            forecast.add(job.known, self.remaining.expect(job, job.tokens_out))
            prompts.append(job.known)
        return prompts
