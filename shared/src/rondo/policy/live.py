"""What a worker asks of the scheduler on its instance, in whichever way the steps are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.pool import JobPool
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.types import Batching, Finished, KvOccupancy, Phase, RequestProgress


class LiveBoard(Protocol):
    """Where the requests stand."""

    @property
    def pool(self) -> JobPool:
        """Their blocks."""
        ...


class LiveScheduler(Protocol):
    """Takes requests and grants, and says where they stand. Implemented by `InstanceScheduler`,
    for one step at a time, and by `tdpipe.PipeInstance`, for several in a pipe; how steps are
    planned and taken in is the business of each and of its loop."""

    max_running: int
    max_prefill_tokens: int

    @property
    def ledger(self) -> KvLedger:
        """The KV pool."""
        ...

    @property
    def board(self) -> LiveBoard:
        """Where the requests stand."""
        ...

    @property
    def phase(self) -> Phase:
        """What the instance is doing."""
        ...

    @property
    def turn_number(self) -> int:
        """The newest turn that it was granted."""
        ...

    @property
    def decode_steps(self) -> int:
        """As in `Progress`."""
        ...

    @property
    def num_running(self) -> int:
        """Requests that are prefilled."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests here that are not."""
        ...

    def add(self, job: Job) -> str | None:
        """A prompt arrived. Returns why it can never run here, or None when it was taken."""
        ...

    def grant(
        self,
        turn: int,
        request_ids: Sequence[str],
        budget_s: float,
        at_s: float,
        batching: Batching = ...,
    ) -> None:
        """A token came, or was extended; older turns than the held one are ignored."""
        ...

    def revoke(self, turn: int) -> None:
        """The token is taken back; what was granted is still prefilled."""
        ...

    def cancel(self, request_id: str) -> bool:
        """Forgets a request; False when it was not here."""
        ...

    def expire(self, at_s: float) -> tuple[Finished, ...]:
        """Gives up granted requests whose prompt never came."""
        ...

    def take_turn_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        ...

    def members(self, at_s: float) -> tuple[RequestProgress, ...]:
        """All live requests, in order of arrival here."""
        ...

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        ...
