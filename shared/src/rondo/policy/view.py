"""What a macro-instance scheduler believes of one instance, from its grants and reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rondo.policy.events import InstanceInfo, TurnClosed
from rondo.policy.ledger import blocks_for
from rondo.types import Chunk, Finished, Phase, Progress, RequestInfo, RequestProgress

#: A granted request that the instance never names is given up after this time.
GRANT_TIMEOUT_S = 10.0
#: A grant that a full report does not show is sent again after this time.
GRANT_RESEND_S = 1.0


@dataclass(slots=True)
class LiveRequest:
    """A prefilled request. Its answer has one token more than decode steps since `base_step`."""

    info: RequestInfo
    base_step: int
    decode_start_s: float | None = None

    def tokens_out(self, decode_steps: int) -> int:
        """Tokens of the answer after the instance's `decode_steps`-th decode step."""
        return 1 + decode_steps - self.base_step

    def saved_s(self, decode_steps: int, at_s: float, tpot_s: float) -> float:
        """Saved TPOT (EcoServe, algorithm 1): how far the answer is ahead of its limit."""
        start_s = at_s if self.decode_start_s is None else self.decode_start_s
        return self.tokens_out(decode_steps) * tpot_s - (at_s - start_s)


@dataclass(slots=True)
class Started:
    """A request whose decode began, for comparing predictions."""

    request_id: str
    ttft_s: float


@dataclass(slots=True)
class Ended:
    """A request that finished; `tpot_s` is None where it had a single token."""

    request_id: str
    tpot_s: float | None


@dataclass(slots=True)
class Changes:
    """What a report changed."""

    started: list[Started] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Requests that a full report does not name any more."""


class InstanceView:
    """Mutable state; `rank` is the order of joining and breaks ties."""

    def __init__(self, info: InstanceInfo, rank: int) -> None:
        self.info = info
        self.rank = rank
        self.turn = 0
        self.turn_open = False
        self.turn_opened_s = 0.0
        self._granted_s: dict[str, float] = {}  # when an outstanding request was granted last
        self.lost_grants: list[str] = []  # outstanding, but the instance knows of no grant
        self.closed_s = 0.0
        self.last_turn_s = 0.0
        self.decode_steps = 0
        self.phase = Phase.IDLE
        self.outstanding: dict[str, RequestInfo] = {}  # granted, not yet prefilled
        self.fresh: dict[str, LiveRequest] = {}  # prefilled, decode not resumed yet
        self.running: dict[str, LiveRequest] = {}
        self.carry: dict[str, RequestInfo] = {}  # on the instance, but without a grant

    # Questions

    def live(self) -> Iterator[LiveRequest]:
        """Prefilled requests."""
        yield from self.running.values()
        yield from self.fresh.values()

    @property
    def num_requests(self) -> int:
        """Everything placed here."""
        return len(self.outstanding) + len(self.fresh) + len(self.running) + len(self.carry)

    def blocks_needed(self) -> int:
        """KV blocks of everything placed here when it ends as predicted."""
        size = self.info.block_size
        total = sum(self.final_blocks(r) for r in self.outstanding.values())
        total += sum(self.final_blocks(r) for r in self.carry.values())
        for live in self.live():
            out = max(live.info.predicted_tokens, live.tokens_out(self.decode_steps) + 1)
            total += blocks_for(live.info.prompt_tokens + min(out, live.info.max_tokens), size)
        return total

    def final_blocks(self, request: RequestInfo) -> int:
        """KV blocks of a request at its predicted end."""
        answer = min(request.predicted_tokens, request.max_tokens)
        return blocks_for(request.prompt_tokens + answer, self.info.block_size)

    def context_tokens(self) -> int:
        """Tokens in the KV cache of the requests that decode."""
        return sum(
            live.info.prompt_tokens + live.tokens_out(self.decode_steps) for live in self.live()
        )

    def prefill_s(self, prompts: Iterable[int]) -> float:
        """Predicted time to prefill prompts of these lengths, packed into steps in order."""
        limit = self.info.max_prefill_tokens
        total_s, step, room = 0.0, [], limit
        for tokens in prompts:
            context = 0
            while tokens > 0:
                count = min(tokens, room)
                step.append(Chunk(count, context))
                tokens, context, room = tokens - count, context + count, room - count
                if room == 0:
                    total_s += self.info.latency.prefill_s(step)
                    step, room = [], limit
        return total_s + self.info.latency.prefill_s(step)

    def switch_wait_s(self) -> float:
        """Predicted wait for the current decode step before a prefill can start (at most)."""
        if self.turn_open and self.phase is Phase.PREFILL:
            return 0.0
        return self.info.latency.decode_s(len(self.running), self.context_tokens())

    # Changes

    def resend(self, at_s: float) -> list[str]:
        """Takes the lost grants, which are being sent again."""
        lost, self.lost_grants = self.lost_grants, []
        self._granted_s.update((request_id, at_s) for request_id in lost)
        return lost

    def grant(self, requests: Iterable[RequestInfo], at_s: float) -> bool:
        """Adds requests to the open turn, or opens the next one; says whether it is new."""
        opened = not self.turn_open
        if opened:
            self.turn += 1
            self.turn_open = True
            self.turn_opened_s = at_s
        for request in requests:
            self.carry.pop(request.request_id, None)
            self.outstanding[request.request_id] = request
            self._granted_s[request.request_id] = at_s
        return opened

    def forget(self, request_id: str) -> None:
        """Drops a request wherever it is."""
        for group in (self.outstanding, self.fresh, self.running, self.carry):
            group.pop(request_id, None)

    def close_turn(self, event: TurnClosed) -> Changes:
        """Decode resumed: the turn's requests decode from now on."""
        if event.turn == self.turn:
            self.closed_s, self.last_turn_s = event.at_s, event.duration_s
            self.phase = Phase.DECODE
            for request_id in event.leftover:
                if request := self.outstanding.pop(request_id, None):
                    self.carry[request_id] = request
        return Changes(started=self._start_decode(event.at_s))

    def take(self, progress: Progress, at_s: float) -> Changes:
        """Takes a report in."""
        changes = Changes()
        self.phase = progress.phase
        if not self.turn_open:  # a new owner goes on where the last one stopped
            self.turn = max(self.turn, progress.turn)
        for request_id in progress.prefilled:
            info = self.outstanding.pop(request_id, None) or self.carry.pop(request_id, None)
            if info:
                self.fresh[request_id] = LiveRequest(info, progress.decode_steps)
        if progress.decode_steps > self.decode_steps:
            self.decode_steps = progress.decode_steps
            spent = sum(s.duration_s for s in progress.steps if s.phase is Phase.DECODE)
            changes.started = self._start_decode(at_s - spent)
        for finished in progress.finished:
            changes.ended.append(self._finish(finished, at_s))
        if progress.members is not None:
            changes.gone = self._reconcile(progress.members, at_s)
            waiting = [m.request_id for m in progress.members if not m.granted]
            overdue = self._granted_before(at_s - GRANT_RESEND_S)
            self.lost_grants = [r for r in waiting if r in overdue]
        return changes

    # Internals

    def _start_decode(self, at_s: float) -> list[Started]:
        started = []
        for request_id, live in list(self.fresh.items()):
            del self.fresh[request_id]
            live.decode_start_s = at_s
            self.running[request_id] = live
            started.append(Started(request_id, at_s - live.info.arrival_s))
        return started

    def _finish(self, finished: Finished, at_s: float) -> Ended:
        live = self.running.get(finished.request_id)
        self.forget(finished.request_id)
        if live is None or live.decode_start_s is None or finished.tokens_out < 2:
            return Ended(finished.request_id, None)
        spent_s = at_s - live.decode_start_s
        return Ended(finished.request_id, spent_s / (finished.tokens_out - 1))

    def _reconcile(self, members: tuple[RequestProgress, ...], at_s: float) -> list[str]:
        named = {member.request_id for member in members}
        gone = [r for g in (self.fresh, self.running, self.carry) for r in g if r not in named]
        gone += [r for r in self._granted_before(at_s - GRANT_TIMEOUT_S) if r not in named]
        for request_id in gone:
            self.forget(request_id)
        for member in members:
            self._adopt(member, at_s)
        return gone

    def _granted_before(self, at_s: float) -> list[str]:
        self._granted_s = {r: s for r, s in self._granted_s.items() if r in self.outstanding}
        return [r for r, granted_s in self._granted_s.items() if granted_s < at_s]

    def _adopt(self, member: RequestProgress, at_s: float) -> None:
        request_id = member.request_id
        if request_id in self.outstanding and member.tokens_out == 0:
            return
        live = self.running.get(request_id) or self.fresh.get(request_id)
        if live is None:
            self.outstanding.pop(request_id, None)
            live = LiveRequest(_info_of(member, at_s), self.decode_steps)
            if member.tokens_out == 0:
                self.carry[request_id] = live.info
                return
            age_s = member.decode_age_s
            live.decode_start_s = None if age_s is None else at_s - age_s
            (self.fresh if age_s is None else self.running)[request_id] = live
        live.base_step = self.decode_steps - (member.tokens_out - 1)


def _info_of(member: RequestProgress, at_s: float) -> RequestInfo:
    return RequestInfo(
        request_id=member.request_id,
        prompt_tokens=member.prompt_tokens,
        max_tokens=member.max_tokens,
        predicted_tokens=member.predicted_tokens,
        slo=member.slo,
        arrival_s=at_s - member.age_s,
    )
