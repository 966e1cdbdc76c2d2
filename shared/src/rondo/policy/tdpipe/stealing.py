"""Work stealing between the circulating decode batches (TD-Pipe, section 3.3).

P batches are in the pipe, and the largest sets the pace of all. Requests end at different times, so
batches drift apart. Each time a batch comes round it is given its share of all that decode: what it
has too many is held back, what it lacks is taken from those held.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import Protocol

from rondo.policy.plan import Job
from rondo.policy.tdpipe.board import PipeBoard
from rondo.policy.tdpipe.remaining import RemainingTokens


class Balancer(Protocol):
    """Fills a decode batch that has come round."""

    def fill(self, slot: int, share: int) -> None:
        """Brings batch `slot`, which is at home, to what it is to have in its next step; `share`
        is its fair part of all that decode."""


class Stealing:
    """Every batch has its share of the requests: the balancer of the paper."""

    def __init__(self, board: PipeBoard) -> None:
        self._board = board

    def fill(self, slot: int, share: int) -> None:
        """Holds back who joined last, takes who was held longest."""
        board, batch = self._board, self._board.batches[slot]
        if len(batch) > share:
            for job in list(batch)[share:]:
                board.hold_back(job)
        for job in list(islice(board.held.values(), max(0, share - len(batch)))):
            board.join(job, slot)


class Levelling:
    """Every batch has its share of the requests and, as far as that goes, of their cached tokens:
    reading the KV takes a decode step as long as its matrices do. At the end of a job, when no
    prompt waits, those go first that have most to do: the last of them ends the job. Ours.
    """

    def __init__(self, board: PipeBoard, remaining: RemainingTokens) -> None:
        self._board = board
        self._remaining = remaining

    def fill(self, slot: int, share: int) -> None:
        """Holds back, and takes, the longest contexts or the shortest, as the batch needs."""
        board, batch = self._board, self._board.batches[slot]
        if not board.waiting:
            self._longest_first(slot, share)
        elif len(batch) > share:
            jobs = sorted(batch, key=self._context, reverse=self._is_heavy(slot))
            for job in jobs[: len(batch) - share]:
                board.hold_back(job)
        elif len(batch) < share and board.held:
            jobs = sorted(board.held.values(), key=self._context, reverse=not self._is_heavy(slot))
            for job in jobs[: share - len(batch)]:
                board.join(job, slot)

    def _longest_first(self, slot: int, share: int) -> None:
        board, batch = self._board, self._board.batches[slot]
        if len(batch) <= share and not board.held:
            return
        for job in sorted([*batch, *board.held.values()], key=self._expected, reverse=True):
            chosen = share > 0
            share -= chosen
            if chosen and job.request_id in board.held:
                board.join(job, slot)
            elif not chosen and job.request_id in board.home:
                board.hold_back(job)

    def _is_heavy(self, slot: int) -> bool:
        """Whether the batch has more cached tokens than its requests would have on average."""
        board, batch = self._board, self._board.batches[slot]
        tokens = sum(each.context_tokens for each in board.batches)
        tokens += sum(job.cached for job in board.held.values())
        return batch.context_tokens * board.num_decoding > tokens * len(batch)

    def _context(self, job: Job) -> int:
        return job.cached + self._board.gained(job)

    def _expected(self, job: Job) -> float:
        """Tokens to come; without end once it has outgrown its prediction: nobody knows."""
        return self._remaining.expect(job, job.tokens_out + self._board.gained(job)) or inf


class Staying:
    """A request stays in the batch that was smallest when it was prefilled: no stealing."""

    def __init__(self, board: PipeBoard) -> None:
        self._board = board
        self._assigned: list[dict[str, None]] = [{} for _ in board.batches]

    def fill(self, slot: int, share: int) -> None:
        """Takes those that were assigned to the batch."""
        board = self._board
        known = [request_id for ids in self._assigned for request_id in ids]
        fresh = board.held.keys() - known
        for request_id in [each for each in board.held if each in fresh]:
            sizes = [len(b) + len(a) for b, a in zip(board.batches, self._assigned, strict=True)]
            self._assigned[sizes.index(min(sizes))][request_id] = None
        mine, self._assigned[slot] = self._assigned[slot], {}
        for request_id in mine:
            if job := board.held.get(request_id):
                board.join(job, slot)


def fair_share(total: int, num_batches: int, index: int) -> int:
    """How many of `total` requests belong into batch `index`: shares differ by one at most."""
    return total // num_batches + (index < total % num_batches)
