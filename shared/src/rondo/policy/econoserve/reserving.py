"""Policies that reserve KV for the whole answer before a prompt begins.

EconoServe (arXiv 2411.06364): exact allocation for the padded prediction, groups that end together,
a reserve for answers that turn out longer, and pauses that keep the KV. Its pipelining lends the
unused half of a reservation to a shorter request, in turn. Here any part may be lent until the step
at which its owner grows into it: a prompt begins if at no decode step to come all requests together
need more than the pool has (`Profile`), which is what loans nested without limit allow; `loans`
writes them out. Deviation: KV is reserved when the prompt begins and not when the answer does, so
that a finished prompt never waits for space. Pure.
"""

from __future__ import annotations

from itertools import islice

from rondo.policy.board import JobBoard
from rondo.policy.econoserve.audit import check_books
from rondo.policy.econoserve.book import Book, Reservation
from rondo.policy.econoserve.needs import Needs
from rondo.policy.econoserve.order import longest_that_fits
from rondo.policy.econoserve.ordered import OrderedPolicy
from rondo.policy.econoserve.settings import EconoSettings
from rondo.policy.econoserve.target import make_target, prompt_budget
from rondo.policy.instance_policy import SpaceUse
from rondo.policy.ledger import blocks_for
from rondo.policy.plan import Job
from rondo.types import Batching, BatchKind, LatencyModel, Started

#: A request starts to decode within so many steps more than its prompt takes.
DELAY_STEPS = 2
#: Of the KV pool: with so much promised, it is KV that prompts wait for.
SCARCE_SHARE = 0.8
#: Prompts that are looked at for one that fits, from the first.
TRIES = 8


class ReservingPolicy(OrderedPolicy):
    """A prompt begins when the pool has room for all of its request, to its padded end.

    Args:
        name: as people name the policy. longest_answers: reserve for `max_tokens` instead of the
        prediction.
    """

    def __init__(self, name: str, settings: EconoSettings, longest_answers: bool = False) -> None:
        super().__init__(settings.order, settings.elder_every, settings.patience_s)
        self.name = name
        self.settings = settings
        self._needs = Needs(settings, longest_answers=longest_answers)
        self._fresh_may_start = True
        self._budget = 1

    def bind(self, board: JobBoard, cost: LatencyModel | None, max_prefill_tokens: int) -> None:
        """See `InstancePolicy`."""
        super().bind(board, cost, max_prefill_tokens)
        ledger = board.ledger
        self.book = Book(ledger.num_blocks, ledger.block_size, lends=self.settings.pipelining)
        self.kept_back = int(self.settings.reserve_share * ledger.num_blocks)
        self._headroom_blocks = int(self.settings.headroom_share * ledger.num_blocks)
        self._target = make_target(self.settings.forward_tokens, cost, max_prefill_tokens)

    # Prompts

    def step_budget(self, batching: Batching, max_prefill_tokens: int, num_decodes: int) -> int:
        """Fills a chunked step up to the target, unless the grant says how far."""
        if batching.kind is BatchKind.CHUNKED and not batching.tokens and self._target.many:
            target = self._target.many if self._prompts_are_many() else self._target.beside
            self._budget = prompt_budget(target, num_decodes)
        else:
            self._budget = super().step_budget(batching, max_prefill_tokens, num_decodes)
        return self._budget

    def queue(self, job: Job) -> None:
        """See `InstancePolicy`."""
        super().queue(job)
        self._needs.note(job)

    def withdraw(self, request_ids: set[str]) -> None:
        """See `InstancePolicy`."""
        for request_id in [r for r in self._begun if r in request_ids]:
            self._hold_still(self.book.entries[request_id])
        super().withdraw(request_ids)

    def admit(self, job: Job) -> bool:
        """Reserves for a prompt that was chosen because there is room, and gives it blocks."""
        if job.request_id in self._begun:
            return self.board.claim(job, spare_blocks=0)
        delay = self._delay(job)
        self.book.open(job, self.board.batch.steps, self._planned_left(job, delay), delay)
        if not self.board.claim(job, spare_blocks=0):
            self.book.close(job.request_id)
            return False
        self._begin(job)
        return True

    def _prompts_are_many(self) -> bool:
        """Whether prompts wait though much KV is promised to nobody."""
        if next(self._fresh(), None) is None:
            return False
        return self.book.owned_blocks < SCARCE_SHARE * self.book.num_blocks

    def _choose(self) -> Job | None:
        if self._paused():
            return None  # They were here before, and have no room either.
        self._elder = elder = self._elders.due(self._fresh(), self._now_s)
        if elder:
            chosen = elder if self._fits_new(elder, self.kept_back) else None
        else:
            chosen = self._first()
        if chosen is None and self._preempt_stray():
            return self._choose()
        return chosen

    def _first(self) -> Job | None:
        """The first prompt in the order that fits, and leaves what it has to."""

        def fits(job: Job) -> bool:
            headroom = int(self._needs.length(job) * self._headroom_blocks)
            return self._fits_new(job, self.kept_back + headroom)

        if self.settings.order == "longest-fit":
            return longest_that_fits(self._fresh(), fits)
        return next((job for job in islice(self._fresh(), TRIES) if fits(job)), None)

    def _preempt_stray(self) -> bool:
        """Where nothing runs: takes the blocks of a prompt that lost its grant half done."""
        board = self.board
        if self._begun or board.num_foreground:
            return False
        strays = [e.job for e in self.book.entries.values() if e.job.request_id not in board.moving]
        if strays:
            board.preempt(strays[0])
        return bool(strays)

    # The prefilled ones

    def join(self, at_s: float, *, fresh: bool) -> list[Started]:
        """Lets held requests decode for which there is room to their ends: of those that had to
        wait first what holds most."""
        board, held = self.board, self.board.ledger.held
        self._now_s, self._fresh_may_start = at_s, fresh
        self._note_late()
        jobs = [job for job in board.held.values() if fresh or job.decode_start_s is not None]
        if not jobs:
            return []
        jobs.sort(key=lambda job: (not self._is_late(job), -held(job.request_id), job.order))
        going = [job for job in jobs if self._go_on(job)]
        if not going and not board.num_decoding:
            going = jobs[:1] if self._make_room(jobs[0]) else []
        return [begun for job in going if (begun := board.start(job, at_s))]

    def grow(self) -> None:
        """Settles answers that are longer than was reserved, then gives each decode its block."""
        board, book = self.board, self.book
        for entry in book.due(board.batch.steps):
            job = entry.job
            if job.base_step is None or self._go_on(job):
                continue
            if board.num_decoding == 1:  # Somebody has to go on.
                self._make_room(job)
            else:
                board.pause(job)
        board.grow_batch(self._evict)

    def takes(self, job: Job) -> bool:
        """Whether there is room for the request to its end; promised it is when it is here."""
        book = self.book
        if not self._fits_new(job, 0):
            return False
        entry = book.open(job, self.board.batch.steps, self._planned_left(job, 0), 0)
        book.hold_still(entry, blocks_for(job.cached, book.block_size))
        return True

    def released(self, job: Job) -> None:
        """See `InstancePolicy`."""
        super().released(job)
        self.book.close(job.request_id)

    def parked(self, job: Job) -> None:
        """See `InstancePolicy`."""
        self._hold_still(self.book.entries[job.request_id])

    def _go_on(self, job: Job) -> bool:
        """Whether the request may decode from now on, to its end or a few tokens at least. If not,
        nothing is promised to it any more, and it keeps what it has."""
        book, step, size = self.book, self.board.batch.steps, self.book.block_size
        entry = book.entries[job.request_id]
        known = job.known + self.board.batch.gained(job)
        if entry.end_step is not None and job.base_step is None and entry.meant_tokens > known:
            book.run(entry, known, step, entry.meant_tokens - known)  # It starts in time.
            return True
        self._hold_still(entry)
        left = self._needs.left(job, known)
        together = self._needs.grouped(job, known, step + left)
        few = min(left, size - known % size)
        # If these keep it from waiting as long as it has to, it had better wait now.
        stays = book.lasts(entry) and not book.lasts(entry, blocks_for(known + few, size))
        for some in (together, left) if stays else (together, left, few):
            if book.fits(known + some, step + some, instead_of=entry):
                book.run(entry, known, step, some)
                return True
        return False

    def _make_room(self, job: Job) -> bool:
        """Lets a request go on, preempting others for it, and itself if there are none."""
        while not self._go_on(job):
            if not self._evict(spare=job):
                self.board.preempt(job)
                return False
        return True

    def _evict(self, spare: Job | None = None) -> bool:
        """Preempts one: background requests first, then what nothing is promised to, then the
        youngest. False: there is nobody but `spare`."""
        board = self.board
        held, moving = board.ledger.held, board.moving
        owners = [j for j in board.jobs.values() if held(j.request_id) and j is not spare]
        victims = [job for job in owners if job.request_id not in moving]
        if victims:
            board.preempt(max(victims, key=lambda j: (j.background, self._is_late(j), j.order)))
        return bool(victims)

    def _note_late(self) -> None:
        """Promises anew, or takes back what was promised to those that were to decode by now."""
        if not self.settings.pipelining:
            return
        book, step = self.book, self.board.batch.steps
        for job in [*self.board.held.values(), *self._begun.values()]:
            entry = book.entries[job.request_id]
            if entry.end_step is None or entry.start_by >= step:
                continue
            self._hold_still(entry)
            delay = self._delay()
            left = self._planned_left(job, delay)
            ahead = left + delay
            if book.fits(job.known + ahead, step + ahead - 1, instead_of=entry):
                book.renew(entry, step, left, delay)

    def _paused(self) -> bool:
        """Whether somebody waits for room who could decode."""
        fresh = self._fresh_may_start
        jobs = (j for j in self.board.held.values() if fresh or j.decode_start_s is not None)
        return any(self._is_late(job) for job in jobs)

    def _is_late(self, job: Job) -> bool:
        entry = self.book.entries.get(job.request_id)
        return entry is not None and entry.still_blocks is not None

    def _hold_still(self, entry: Reservation) -> None:
        self.book.hold_still(entry, self.board.ledger.held(entry.job.request_id))

    # Room

    def _delay(self, job: Job | None = None) -> int:
        """Steps in which the prompts that have begun, and this one after them, are computed."""
        if not self.settings.pipelining or not self.book.entries:
            return 0
        jobs = [*self._begun.values(), *([job] if job else [])]
        tokens = sum(each.known - each.cached for each in jobs)
        return DELAY_STEPS + tokens // max(1, self._budget)

    def _planned_left(self, job: Job, delay: int) -> int:
        """Tokens to reserve for, the first of them `delay` steps from now."""
        end = self.board.batch.steps + self._needs.left(job, job.known) - 1 + delay
        return self._needs.grouped(job, job.known, end)

    def _fits_new(self, job: Job, leaves: int) -> bool:
        """Whether there is room for a newcomer that leaves so many blocks free; for one alone
        there always is."""
        if not self.book.entries:
            return True
        delay = self._delay(job)
        ahead, step = self._planned_left(job, delay) + delay, self.board.batch.steps
        return self.book.fits(job.known + ahead, step + ahead - 1, leaves=leaves)

    # Looking in

    def space_use(self) -> SpaceUse:
        """See `InstancePolicy`. What paused requests keep of what others were promised is lent."""
        ledger, book = self.board.ledger, self.book
        owned = book.owned_blocks
        lent = book.reserved_blocks - owned
        return SpaceUse(
            used=ledger.num_blocks - ledger.num_free,
            owned=owned,
            reserved=book.reserved_blocks,
            lent=lent,
            borrowed=lent,
            kept_back=self.kept_back,
            num_paused=sum(self._is_late(job) for job in self.board.held.values()),
        )

    def check_invariants(self) -> None:
        """Raises InvariantError when a reservation, a loan and the ledger disagree."""
        check_books(self.board, self.book)
