"""What an instance policy decides, and the default: first come, blocks on demand.

The scheduler of an instance asks its policy four things: which waiting prompt is next, whether that
prompt may take blocks, which prefilled requests may decode, and what happens when decodes need more
blocks than they have. The default is what vLLM does (arXiv 2309.06180, section 4.5): prompts in
order of arrival, blocks as tokens come, and the youngest request recomputed when none is left.
Policies that reserve KV ahead are in `rondo.policy.econoserve`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rondo.policy.board import JobBoard
from rondo.policy.fill import step_budget
from rondo.policy.plan import Job
from rondo.types import Batching, LatencyModel, Started


class SpaceUse(msgspec.Struct, frozen=True, kw_only=True):
    """Who has the KV blocks of an instance, counted in blocks; `num_paused` in requests.

    used: in tables. reserved: what requests may grow to, together. owned: the part of reserved that
    is theirs alone at their peak; the rest is `borrowed`, and so `lent` by others until they grow.
    kept_back: left unpromised for answers that turn out longer than predicted. num_paused: requests
    that keep their KV and wait for more.
    """

    used: int
    owned: int
    reserved: int
    lent: int = 0
    borrowed: int = 0
    kept_back: int = 0
    num_paused: int = 0


class InstancePolicy:
    """Block growth: the default, and what the others differ from.

    One object serves one scheduler, which calls `bind` first.
    """

    name = "block-growth"

    def bind(self, board: JobBoard, cost: LatencyModel | None, max_prefill_tokens: int) -> None:
        """Tells the policy whose requests it decides on; `cost` predicts steps."""
        self.board = board

    # The waiting prompts

    def queue(self, job: Job) -> None:
        """A prompt was granted: it waits from now on. One that lost its turn half done and has
        blocks comes first, or it would keep them from those before it for ever."""
        if self.board.ledger.held(job.request_id):
            self.board.waiting.insert(0, job)
        else:
            self.board.waiting.append(job)

    def requeue(self, job: Job) -> None:
        """A prefilled request gave its blocks up: it waits again."""
        self.board.waiting.insert(0, job)

    def prompts(self) -> Iterable[Job]:
        """Waiting prompts in the order in which the step takes them."""
        return self.board.waiting

    def admit(self, job: Job) -> bool:
        """Gives a prompt its blocks; False: there are not enough, and no other gets any."""
        # One free block for each running request keeps them from preempting this one at once.
        return self.board.claim(job, spare_blocks=self.board.num_foreground)

    def withdraw(self, request_ids: set[str]) -> None:
        """These prompts lost their grants."""
        waiting = self.board.waiting
        self.board.waiting = [job for job in waiting if job.request_id not in request_ids]

    def step_budget(self, batching: Batching, max_prefill_tokens: int, num_decodes: int) -> int:
        """Prompt tokens that the next step may take."""
        return step_budget(batching, max_prefill_tokens, num_decodes)

    # The prefilled ones

    def join(self, at_s: float, *, fresh: bool) -> list[Started]:
        """Lets held requests decode: see `JobBoard.join_batch`."""
        return self.board.join_batch(at_s, fresh=fresh)

    def grow(self) -> None:
        """Gives each decode the block that its next token needs."""
        self.board.grow_batch()

    def takes(self, job: Job) -> bool:
        """Whether a request whose KV comes from elsewhere may have blocks here."""
        return True

    # Told of what happens

    def prefilled(self, job: Job) -> None:
        """The prompt is computed: the request is held."""

    def released(self, job: Job) -> None:
        """The request's blocks were taken back: it ended, left or was preempted."""

    def parked(self, job: Job) -> None:
        """The request keeps the blocks that it has until it leaves, and decodes elsewhere."""

    # Looking in

    def space_use(self) -> SpaceUse:
        """Who has the blocks."""
        ledger = self.board.ledger
        used = ledger.num_blocks - ledger.num_free
        return SpaceUse(used=used, owned=used, reserved=used)

    def check_invariants(self) -> None:
        """Raises InvariantError when the policy's books disagree with the board."""
