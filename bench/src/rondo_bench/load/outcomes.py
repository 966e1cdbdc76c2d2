"""What became of a request, as its client saw it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rondo.metrics.lifecycle import Lifecycle
from rondo.types import Slo
from rondo_bench.sim.records import Arrival


class Ending(Enum):
    """How a request ended.

    COMPLETED: the stream said that it is done. REFUSED: 429 or 503. ERROR: any other status, or an
    error as an event of the stream. BROKEN: no connection, or one that broke off. TIMED_OUT: the
    client's patience ended. ABORTED: the run was given up before the request had an ending.
    """

    COMPLETED = "completed"
    REFUSED = "refused"
    ERROR = "error"
    BROKEN = "broken"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"

    @property
    def is_failure(self) -> bool:
        """Neither an answer nor an orderly refusal."""
        return self not in (Ending.COMPLETED, Ending.REFUSED)


@dataclass(slots=True)
class Outcome:
    """One request. Instants are seconds since the run began.

    Attributes:
        times: stamps; arrival is when the request was due, so a late client makes figures worse,
            never better. A stamp is the moment at which the client had read the event; `gaps_s`
            are between events with text, which carry one token unless the server bundles.
        sent_s: when it left, which is later than due if the client was busy.
        num_events: with text.
        status: of HTTP; None without a response.
        error: what went wrong, in the server's or the library's words.
    """

    arrival: Arrival
    times: Lifecycle
    sent_s: float = 0.0
    ended_s: float = 0.0
    ending: Ending = Ending.ABORTED
    num_events: int = 0
    status: int | None = None
    retry_after_s: float | None = None
    error: str = ""
    token_times_s: list[float] = field(default_factory=list)
    """When each event with text came; kept if the run was asked to."""

    @property
    def completed(self) -> bool:
        """The whole answer came."""
        return self.ending is Ending.COMPLETED

    @property
    def num_tokens(self) -> int:
        """Of the answer by the server's usage; events with text where none came."""
        return self.times.num_tokens

    @property
    def late_s(self) -> float:
        """How long after its time the request left: what the client itself adds."""
        return self.sent_s - self.times.arrival_s

    @property
    def e2e_s(self) -> float | None:
        """From arrival to the end of the answer; None unless completed."""
        return self.ended_s - self.times.arrival_s if self.completed else None

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token; None unless completed."""
        return self.times.ttft_s if self.completed else None

    @property
    def tpot_s(self) -> float | None:
        """Mean time of the tokens after the first: 0 for an answer of one token.

        None unless completed.
        """
        if not self.completed or self.times.first_token_s is None:
            return None
        return self.times.tpot_s or 0.0

    def meets(self, slo: Slo) -> bool:
        """Completed within both objectives."""
        ttft_s, tpot_s = self.ttft_s, self.tpot_s
        return (
            ttft_s is not None
            and tpot_s is not None
            and ttft_s <= slo.ttft_s
            and tpot_s <= slo.tpot_s
        )
