"""Reserved blocks written out as loans: who lends how many to whom, and when they come back.

The request that ends last owns all that it will need. The next one borrows what its elders do not
need yet at its own end, and owns the rest; and so on down to the soonest end. A loan comes back
with its borrower's end, so what one borrowed it may lend on to those that end sooner. All that is
owned together is then the most that is needed at any one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rondo.errors import InvariantError
from rondo.policy.econoserve.book import Reservation
from rondo.policy.ledger import blocks_for


@dataclass(frozen=True, slots=True)
class Loan:
    """`lender` does without `blocks` blocks until decode step `due_step`."""

    lender: str
    borrower: str
    blocks: int
    due_step: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What one request will hold: `blocks` at `end_step`, a token less for each step before."""

    request_id: str
    final_tokens: int
    end_step: int
    block_size: int

    @property
    def blocks(self) -> int:
        """Blocks at its end."""
        return blocks_for(self.final_tokens, self.block_size)

    def at(self, step: int) -> int:
        """Blocks at a step before its end."""
        return blocks_for(self.final_tokens - (self.end_step - step), self.block_size)


@dataclass(slots=True)
class Settlement:
    """Who owns how many blocks, and all loans."""

    claims: dict[str, Claim] = field(default_factory=dict)
    owned: dict[str, int] = field(default_factory=dict)
    loans: list[Loan] = field(default_factory=list)

    @property
    def num_owned(self) -> int:
        """Blocks that are owned, of all requests."""
        return sum(self.owned.values())

    @property
    def num_lent(self) -> int:
        """Blocks that are lent, counted at each lender."""
        return sum(loan.blocks for loan in self.loans)

    def check(self, step: int) -> None:
        """Raises InvariantError unless each loan is back when its lender grows into it."""
        budgets, lent = dict(self.owned), dict[str, list[Loan]]()
        for loan in self.loans:
            budgets[loan.borrower] += loan.blocks
            lent.setdefault(loan.lender, []).append(loan)
            if not loan.due_step == self.claims[loan.borrower].end_step:
                raise InvariantError(f"KV loan: {loan.borrower} does not return it at its end")
        for request_id, claim in self.claims.items():
            if budgets[request_id] != claim.blocks:
                raise InvariantError(f"KV loan: {request_id} has not what it reserved")
            loans = lent.get(request_id, [])
            for due in (min(step, claim.end_step), *(loan.due_step for loan in loans)):
                out = sum(loan.blocks for loan in loans if loan.due_step >= due)
                if claim.at(due) + out > budgets[request_id]:
                    raise InvariantError(f"KV loan: {request_id} needs at step {due} what it lent")


def settle(entries: Iterable[Reservation], block_size: int, *, lends: bool = True) -> Settlement:
    """Writes out the loans between requests that were promised room; none if not `lends`."""
    claims = [
        Claim(entry.job.request_id, entry.final_tokens, entry.end_step, block_size)
        for entry in sorted(entries, key=lambda e: (-(e.end_step or 0), e.job.order))
        if entry.end_step is not None
    ]
    result = Settlement()
    credit: dict[str, int] = {}
    for claim in claims:
        wanted = claim.blocks
        for lender in result.claims.values() if lends else ():
            spare = min(wanted, credit[lender.request_id] - lender.at(claim.end_step))
            if spare > 0:
                result.loans.append(
                    Loan(lender.request_id, claim.request_id, spare, claim.end_step)
                )
                credit[lender.request_id] -= spare
                wanted -= spare
            if not wanted:
                break
        result.claims[claim.request_id] = claim
        result.owned[claim.request_id] = wanted
        credit[claim.request_id] = claim.blocks
    return result
