"""The book of reserved KV: what it foresees, and the loans that it is written out as."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from rondo.errors import InvariantError
from rondo.policy.econoserve.book import Book
from rondo.policy.econoserve.loans import Loan, settle
from rondo.policy.econoserve.profile import Profile
from rondo.policy.ledger import blocks_for
from rondo.policy.plan import Job
from rondo.types import Slo

SLO = Slo(ttft_s=1.0, tpot_s=0.1)


def job(name: str, prompt: int, answer: int, order: int = 0) -> Job:
    return Job(name, prompt, answer, answer, SLO, 0.0, order=order)


def needed(requests: list[tuple[int, int]], step: int, size: int) -> int:
    """Blocks of (end, final tokens) at a step, counted one by one."""
    live = [(end, final) for end, final in requests if end >= step]
    return sum(blocks_for(final - (end - step), size) for end, final in live)


@pytest.mark.parametrize("seed", range(20))
def test_a_profile_counts_as_one_would_by_hand(seed: int) -> None:
    random, size = Random(seed), 1 + seed % 7
    requests = []
    for _ in range(random.randint(0, 12)):
        end = random.randint(1, 30)
        requests.append((end, end + random.randint(1, 40)))
    ends = sorted({end for end, _ in requests})
    rows = [(end, [final for other, final in requests if other == end]) for end in ends]
    profile = Profile(rows, size)
    by_hand = max((needed(requests, step, size) for step in range(31)), default=0)
    assert profile.peak_tokens == by_hand * size
    new_end = random.randint(1, 35)
    new_final = new_end + random.randint(1, 40)
    steps = range(new_end + 1)
    with_it = max(needed([*requests, (new_end, new_final)], step, size) for step in steps)
    peak = profile.peak_with(new_final, new_end)
    assert with_it * size <= peak <= (with_it + 1) * size


def test_the_short_one_borrows_what_the_long_one_needs_later() -> None:
    book = Book(num_blocks=10, block_size=4)
    book.open(job("long", 8, 32), step=0, left=32, delay=0)  # 2 blocks now, 10 at step 31
    book.open(job("short", 4, 8, order=1), step=0, left=8, delay=0)  # 3 blocks at step 7
    settled = settle(book.promised, 4)
    assert settled.loans == [Loan("long", "short", 3, due_step=7)]
    assert settled.owned == {"long": 10, "short": 0}
    assert settled.num_owned * 4 == book.profile().peak_tokens
    settled.check(step=0)


def test_loans_are_nested() -> None:
    book = Book(num_blocks=10, block_size=4)
    book.open(job("long", 8, 32), step=0, left=32, delay=0)
    book.open(job("half", 4, 16, order=1), step=0, left=16, delay=0)
    book.open(job("brief", 4, 4, order=2), step=0, left=4, delay=0)
    settled = settle(book.promised, 4)
    lenders = {(loan.lender, loan.borrower) for loan in settled.loans}
    assert ("long", "half") in lenders
    assert {borrower for _, borrower in lenders} == {"half", "brief"}
    ends = {name: claim.end_step for name, claim in settled.claims.items()}
    assert all(loan.due_step == ends[loan.borrower] < ends[loan.lender] for loan in settled.loans)


def test_without_loans_all_own_what_they_reserved() -> None:
    book = Book(num_blocks=10, block_size=4)
    book.open(job("long", 8, 32), step=0, left=32, delay=0)
    book.open(job("short", 4, 8, order=1), step=0, left=8, delay=0)
    settled = settle(book.promised, 4, lends=False)
    assert settled.loans == []
    assert settled.num_owned == book.reserved_blocks == 13


@pytest.mark.parametrize("seed", range(20))
def test_what_is_owned_together_is_the_peak(seed: int) -> None:
    random, size = Random(seed), 1 + seed % 5
    book = Book(num_blocks=1000, block_size=size)
    for number in range(random.randint(1, 12)):
        prompt, answer = random.randint(1, 40), random.randint(1, 40)
        book.open(job(f"r{number}", prompt, answer, number), random.randint(0, 9), answer, 1)
    settled = settle(book.promised, size)
    settled.check(step=0)
    assert settled.num_owned * size == book.profile().peak_tokens
    assert settled.num_owned + settled.num_lent == book.reserved_blocks


def test_a_loan_that_comes_back_too_late_is_found() -> None:
    book = Book(num_blocks=10, block_size=4)
    book.open(job("long", 8, 32), step=0, left=32, delay=0)
    book.open(job("short", 4, 8, order=1), step=0, left=8, delay=0)
    settled = settle(book.promised, 4)
    [loan] = settled.loans
    settled.loans = [replace(loan, due_step=31)]
    settled.claims["short"] = replace(settled.claims["short"], end_step=31)
    with pytest.raises(InvariantError, match="long needs at step 31 what it lent"):
        settled.check(step=0)


def test_a_loan_of_more_than_is_there_is_found() -> None:
    book = Book(num_blocks=10, block_size=4)
    book.open(job("long", 8, 32), step=0, left=32, delay=0)
    book.open(job("short", 4, 8, order=1), step=0, left=8, delay=0)
    settled = settle(book.promised, 4)
    settled.owned["short"] = 1
    with pytest.raises(InvariantError, match="short has not what it reserved"):
        settled.check(step=0)


def test_what_stands_still_is_no_longer_promised_anything() -> None:
    book = Book(num_blocks=10, block_size=4)
    entry = book.open(job("r", 8, 32), step=0, left=32, delay=0)
    book.hold_still(entry, 3)
    assert (book.reserved_blocks, book.still_blocks, book.promised) == (3, 3, [])
    assert book.profile().peak_tokens == 0
    book.run(entry, known=12, step=5, left=8)
    assert (book.reserved_blocks, book.still_blocks) == (5, 0)
    assert [e.job.request_id for e in book.due(13)] == ["r"]
    assert book.due(12) == []
    book.close("r")
    assert (book.reserved_blocks, book.entries) == (0, {})
    book.check_invariants()


def test_room_is_what_nobody_keeps_or_was_promised() -> None:
    book = Book(num_blocks=10, block_size=4)
    entry = book.open(job("r", 8, 32), step=0, left=32, delay=0)
    book.hold_still(entry, 3)
    assert book.fits(28, 5)
    assert not book.fits(29, 5)
    assert not book.fits(28, 5, leaves=1)
    assert book.fits(40, 5, instead_of=entry)
