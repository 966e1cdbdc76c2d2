"""What background requests may take of an instance's steps.

While foreground requests decode, each of their steps earns background work a share of its predicted
time, `RIDE_SHARE`; decodes that ride along and chunks of prompts are paid from what was earned, and
no more than `BURST_SHARE` of a step is saved up. So over any stretch of steps the foreground's
decode takes at most RIDE_SHARE longer, and BURST_SHARE of one step. Without foreground work
background requests have the instance, in steps short enough to wait for.

Harvesting slack under latency limits is ConServe's idea (arXiv 2410.01228); that the price of a
step is known before it runs makes a budget of it here. Pure.
"""

from __future__ import annotations

from rondo.policy.board import JobBoard
from rondo.policy.plan import Job, PlanItem, StepPlan
from rondo.types import LatencyModel

#: Predicted time that background work may add to foreground decode.
RIDE_SHARE = 0.02
#: Of a foreground step: the most that is saved up, and so the most that one step is longer.
BURST_SHARE = 0.2
#: A prompt's chunk has at least so many tokens, or half of what a step may have where that is less,
#: unless it is its last.
LEAST_CHUNK = 16
#: Steps with chunks of background prompts alone: a newcomer waits for the end of one.
SLACK_STEP_S = 0.05
#: ... or of such a share beyond what the decodes take, where that is more.
SLACK_STEP_SHARE = 1.5
#: Tokens of such a chunk where no latency model is there to say how long it takes.
UNTIMED_CHUNK = 256
#: Share of the KV pool that background prompts leave free when they take their blocks.
SPARE_SHARE = 0.1


class Rides:
    """Chooses the background part of each step.

    Args:
        cost: predicts steps; None: nothing runs beside foreground requests.
    """

    def __init__(
        self,
        board: JobBoard,
        max_running: int,
        max_prefill_tokens: int,
        cost: LatencyModel | None = None,
    ) -> None:
        self._board = board
        self._max_running = max_running
        self._max_prefill_tokens = max_prefill_tokens
        self._least_chunk = max(1, min(LEAST_CHUNK, max_prefill_tokens // 2))
        self._cost = cost
        self.saved_s = 0.0
        """Earned and not spent."""

    def mount(self) -> None:
        """Settles who rides in the decode step that is planned; foreground ones have joined."""
        background = self._board.background
        if not background:
            return
        num, context = self._foreground()
        slots = self._max_running - num
        if not num:
            self.saved_s = 0.0
            self._ride(background.prefilled()[: max(0, slots)])
        elif self._cost is None:
            self.rest()
        else:
            self._ride(self._affordable(self._cost, num, context, slots))

    def rest(self) -> None:
        """Sets all riders aside: the step has no room for them."""
        if self._board.background.riding:
            self._ride([])

    def chunks(self) -> list[PlanItem]:
        """Chunks of background prompts for the step whose decodes are settled."""
        board, background = self._board, self._board.background
        if not background.waiting or board.waiting:
            return []
        foreground = board.num_foreground > 0
        if foreground and (self._cost is None or self.saved_s <= 0.0):
            return []
        step = _Step(len(board.batch), board.batch.context_tokens, self._cost)
        limit_s = self._limit_s(step, foreground)
        room = self._max_prefill_tokens - len(board.batch)
        slots = self._max_running - board.num_prefilled
        chunks: list[PlanItem] = []
        # One that has its blocks is finished first, or it would keep them from all others.
        prompts = sorted(background.waiting, key=lambda job: not board.ledger.held(job.request_id))
        for job in prompts[: max(0, slots)]:
            left = job.known - job.cached
            must = not foreground and not step.num_decodes and not chunks  # else nothing would run
            count = step.most(min(left, room), job.cached, limit_s)
            if must:
                count = max(count, min(left, self._least_chunk))
            if count < min(left, self._least_chunk) or not self._claim(job):
                break
            # What it shares with others need not be computed.
            count = min(count, job.known - job.cached)
            step.add(count, job.cached)
            room -= count
            blocks = board.ledger.table(job.request_id)
            chunks.append(PlanItem(job.request_id, job.cached, count, blocks))
        if foreground and chunks:
            self.saved_s -= step.extra_s()
        return chunks

    def num_tokens(self, plan: StepPlan) -> int:
        """Background tokens of a step that was filled so."""
        return plan.prompt_tokens + len(self._board.background.riding)

    # Internals

    def _foreground(self) -> tuple[int, int]:
        """How many foreground requests decode, and their cached tokens."""
        batch, riding = self._board.batch, self._board.background.riding
        context = sum(job.cached + batch.gained(job) for job in riding.values())
        return len(batch) - len(riding), batch.context_tokens - context

    def _affordable(self, cost: LatencyModel, num: int, context: int, slots: int) -> list[Job]:
        """The oldest, as many as what is saved up pays for."""
        base_s = cost.step_s(0, 0, num, context)
        self.saved_s = min(self.saved_s + RIDE_SHARE * base_s, BURST_SHARE * base_s)
        gained, riders, spent_s = self._board.batch.gained, list[Job](), 0.0
        for job in self._board.background.prefilled()[: max(0, slots)]:
            num, context = num + 1, context + job.cached + gained(job)
            extra_s = max(0.0, cost.step_s(0, 0, num, context) - base_s)
            if extra_s > self.saved_s:
                break
            riders.append(job)
            spent_s = extra_s
        self.saved_s -= spent_s
        return riders

    def _ride(self, jobs: list[Job]) -> None:
        """Makes exactly these ride."""
        board, background = self._board, self._board.background
        wanted = {job.request_id for job in jobs}
        for job in list(background.riding.values()):
            if job.request_id not in wanted:
                board.batch.leave(job)
                background.aside[job.request_id] = background.riding.pop(job.request_id)
        for job in jobs:
            if background.aside.pop(job.request_id, None):
                background.riding[job.request_id] = job
                board.batch.join(job)

    def _limit_s(self, step: _Step, foreground: bool) -> float:
        decode_s = step.decode_s
        if foreground:
            return decode_s + self.saved_s
        return max(SLACK_STEP_S, SLACK_STEP_SHARE * decode_s)

    def _claim(self, job: Job) -> bool:
        """Blocks for a prompt; some stay free for others, unless nobody else has any."""
        ledger = self._board.ledger
        alone = ledger.num_free == ledger.num_blocks
        spare = 0 if alone else self._board.num_prefilled + int(SPARE_SHARE * ledger.num_blocks)
        return self._board.pool.claim(job, spare)


class _Step:
    """A step that is being filled with chunks, beside decodes that are settled."""

    def __init__(self, num_decodes: int, context: int, cost: LatencyModel | None) -> None:
        self.num_decodes = num_decodes
        self._context = context
        self._cost = cost
        self._tokens = self._pairs = 0
        self.decode_s = self._s(0, 0)

    def most(self, num_tokens: int, start: int, limit_s: float) -> int:
        """The most tokens, up to `num_tokens`, of a chunk with which the step keeps the limit."""
        if self._cost is None:
            return min(num_tokens, UNTIMED_CHUNK - self._tokens)
        low, high = 0, num_tokens
        while low < high:
            middle = (low + high + 1) // 2
            pairs = self._pairs + middle * (middle + 2 * start)
            if self._s(self._tokens + middle, pairs) <= limit_s:
                low = middle
            else:
                high = middle - 1
        return low

    def add(self, num_tokens: int, start: int) -> None:
        """The step has this chunk."""
        self._tokens += num_tokens
        self._pairs += num_tokens * (num_tokens + 2 * start)

    def extra_s(self) -> float:
        """What the chunks add."""
        return max(0.0, self._s(self._tokens, self._pairs) - self.decode_s)

    def _s(self, tokens: int, pairs: int) -> float:
        if self._cost is None:
            return 0.0
        return self._cost.step_s(tokens, pairs, self.num_decodes, self._context)
