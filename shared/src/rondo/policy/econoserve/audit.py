"""Checks that reservations, loans and the ledger of an instance agree."""

from __future__ import annotations

from rondo.errors import InvariantError
from rondo.policy.board import JobBoard
from rondo.policy.econoserve.book import Book
from rondo.policy.econoserve.loans import settle
from rondo.policy.ledger import blocks_for


def check_books(board: JobBoard, book: Book) -> None:
    """Raises InvariantError unless each request stays within what it reserved, and what was
    promised is there at every step to come: what others keep beyond that they can be preempted for.
    """
    book.check_invariants()
    held, size, step = board.ledger.held, book.block_size, board.batch.steps
    owners = {j.request_id for j in board.jobs.values() if held(j.request_id) and not j.background}
    if owners - book.entries.keys():
        raise InvariantError("KV book: a request has blocks and no reservation")
    if book.entries.keys() - board.jobs.keys():
        raise InvariantError("KV book: a reservation outlives its request")
    for request_id, entry in book.entries.items():
        if held(request_id) > entry.blocks(size):
            raise InvariantError(f"KV book: {request_id} has more blocks than it reserved")
        if entry.job.base_step is not None and entry.end_step is None:
            raise InvariantError(f"KV book: {request_id} decodes without a promise")
        if book.lends and entry.end_step is not None:
            if entry.job.base_step is None and entry.start_by < step - 1:
                raise InvariantError(f"KV book: {request_id} is late and keeps its promise")
            by_now = entry.final_tokens - (entry.end_step - step)
            if held(request_id) > blocks_for(by_now, size):
                raise InvariantError(f"KV book: {request_id} has more blocks than foreseen")
    settled = settle(book.promised, size, lends=book.lends)
    settled.check(step)
    if settled.num_owned > book.num_blocks:
        raise InvariantError("KV book: more is promised than the pool has")
