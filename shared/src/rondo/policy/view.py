"""What a macro-instance scheduler believes of one instance, from its grants and reports."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.perf.correction import CorrectedModel
from rondo.policy.changes import Begun, Changes, Ended, spent_since
from rondo.policy.events import InstanceInfo, TurnClosed
from rondo.policy.forecast import Forecast
from rondo.policy.placed import PlacedBlocks
from rondo.policy.running import LiveRequest, RunningSet, info_of
from rondo.types import (
    Batching,
    BatchKind,
    Finished,
    FoundPrefix,
    Phase,
    Progress,
    RequestInfo,
    RequestProgress,
)

#: A granted request that the instance never names is given up after this time.
GRANT_TIMEOUT_S = 10.0
#: A grant that a full report does not show is sent again after this time.
GRANT_RESEND_S = 1.0
#: A TPOT limit that even a lone request would miss is taken as this multiple of its decode step, so
#: that requests are batched all the same.
INFEASIBLE_TPOT_FACTOR = 4.0
#: Prompt tokens that a chunked step takes at least, however many sequences decode.
LEAST_CHUNK_TOKENS = 16


class InstanceView:
    """Mutable state; `rank` is the order of joining and breaks ties."""

    def __init__(self, info: InstanceInfo, rank: int) -> None:
        self.info = info
        self.latency = CorrectedModel(info.latency)
        self.rank = rank
        self.turn = 0
        self.turn_open = False
        self.batching = Batching()  # of the last grant
        self.lost_grants: list[str] = []  # outstanding, but the instance knows of no grant
        self.decode_steps = 0
        self.phase = Phase.IDLE
        self.outstanding: dict[str, RequestInfo] = {}  # granted, not yet prefilled
        self.fresh: dict[str, LiveRequest] = {}  # prefilled, decode not begun yet
        self.running = RunningSet()
        self.carry: dict[str, RequestInfo] = {}  # on the instance, but without a grant
        self.handed = Forecast(self.latency, info.max_prefill_tokens)  # since decode resumed last
        self.blocks = PlacedBlocks(info.block_size)
        self._granted_s: dict[str, float] = {}  # when an outstanding request was granted last
        self._found: dict[str, int] = {}  # tokens of waiting prompts whose KV is there already
        self._ahead = 0  # prompt tokens computed of prompts that are not complete
        self._forecasts: dict[Batching, Forecast] = {}

    # Questions

    @property
    def num_requests(self) -> int:
        """Everything placed here."""
        return len(self.outstanding) + len(self.fresh) + len(self.running) + len(self.carry)

    @property
    def outstanding_tokens(self) -> int:
        """Prompt tokens that are granted and not computed yet."""
        if not self.outstanding:
            return -self._ahead
        return sum(self._to_prefill(r) for r in self.outstanding.values()) - self._ahead

    def context_tokens(self) -> int:
        """Tokens in the KV cache of the requests that decode."""
        return self.running.context_tokens(self.decode_steps)

    def forecast(self, batching: Batching) -> Forecast:
        """What is left of the turn, if its steps are filled in this way."""
        known = self._forecasts.get(batching)
        if known is None:
            known = self._forecasts[batching] = self._build_forecast(batching)
        return known

    def alone_s(self, prompt_tokens: int) -> float:
        """Predicted prefill time of one prompt on this instance, were it idle."""
        if prompt_tokens <= self.info.max_prefill_tokens:
            return self.latency.step_s(prompt_tokens, prompt_tokens * prompt_tokens, 0, 0)
        return Forecast(self.latency, self.info.max_prefill_tokens).cost_with_s(prompt_tokens)

    def tightest(self) -> tuple[int, float]:
        """The longest prompt that waits here, and the least TPOT limit of all that are here."""
        waiting = self.outstanding.values()
        longest = max((request.prompt_tokens for request in waiting), default=0)
        limits = [self.feasible_tpot_s(request) for request in waiting]
        limits += [live.tpot_s for live in self.fresh.values()]
        return longest, min([self.running.slack.least_tpot_s, *limits])

    def feasible_tpot_s(self, request: RequestInfo) -> float:
        """Its TPOT limit, or one that a lone request can meet here."""
        alone_s = self.latency.step_s(0, 0, 1, request.prompt_tokens)
        limit_s = request.slo.tpot_s
        return limit_s if alone_s <= limit_s else alone_s * INFEASIBLE_TPOT_FACTOR

    def switch_wait_s(self) -> float:
        """Predicted wait for the current decode step before a prefill can start (at most)."""
        if self.turn_open and self.phase in (Phase.PREFILL, Phase.FUSED):
            return 0.0
        return self.decode_step_s()

    def decode_step_s(self) -> float:
        """Predicted time of a decode step now; 0 when nothing decodes."""
        return self.latency.step_s(0, 0, len(self.running), self.context_tokens())

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
        for request in requests:
            if self.carry.pop(request.request_id, None):
                self._forecasts.clear()  # half done, perhaps
            for forecast in self._forecasts.values():
                forecast.add(request.prompt_tokens)
            self.handed.add(request.prompt_tokens)
            self.blocks.wait(request)
            self.outstanding[request.request_id] = request
            self._granted_s[request.request_id] = at_s
        return opened

    def forget(self, request_id: str) -> None:
        """Drops a request wherever it is."""
        self.blocks.drop(request_id)
        self._forecasts.clear()
        self._found.pop(request_id, None)
        self.running.pop(request_id)
        for group in (self.outstanding, self.fresh, self.carry):
            group.pop(request_id, None)

    def close_turn(self, event: TurnClosed) -> Changes:
        """Decode resumed: the turn's requests decode from now on."""
        changes = Changes()
        if event.turn != self.turn:
            return changes
        self.phase = Phase.DECODE
        self.handed = Forecast(self.latency, self.info.max_prefill_tokens)
        self._forecasts.clear()
        for request_id in event.leftover:
            if request := self.outstanding.pop(request_id, None):
                self.carry[request_id] = request
        for request_id in list(self.fresh):
            self._begin(request_id, self.decode_steps, event.at_s, changes)
        return changes

    def take(self, progress: Progress, at_s: float) -> Changes:
        """Takes a report in."""
        changes = Changes()
        self.phase = progress.phase
        self.blocks.used_blocks = progress.kv.used_blocks
        if not self.turn_open:  # a new owner goes on where the last one stopped
            self.turn = max(self.turn, progress.turn)
        for step in progress.steps:
            self.latency.observe(step)
        for found in progress.found:
            self._find(found)
        if self.outstanding or self.carry:
            self._prefilled(progress, changes)
        self.decode_steps = max(self.decode_steps, progress.decode_steps)
        for begun in progress.started:
            start_s = at_s - spent_since(begun.base_step, progress.decode_steps, progress.steps)
            self._begin(begun.request_id, begun.base_step, start_s, changes)
        for finished in progress.finished:
            changes.ended.append(self._finish(finished, at_s))
        if progress.members is not None:
            changes.gone = self._reconcile(progress.members, at_s)
            waiting = [m.request_id for m in progress.members if not m.granted]
            overdue = self._granted_before(at_s - GRANT_RESEND_S)
            self.lost_grants = [r for r in waiting if r in overdue]
        return changes

    # Internals

    def _build_forecast(self, batching: Batching) -> Forecast:
        tokens = batching.tokens or self.info.max_prefill_tokens
        if batching.kind is BatchKind.SEPARATE:
            forecast = Forecast(self.latency, tokens)
        else:
            riders = len(self.running)
            if batching.kind is BatchKind.CHUNKED:
                tokens = max(LEAST_CHUNK_TOKENS, tokens - riders)
            forecast = Forecast(self.latency, tokens, riders, self.context_tokens())
        ahead = self._ahead
        for request in self.outstanding.values():
            done = min(ahead, self._to_prefill(request) - 1)
            forecast.add(request.prompt_tokens, self._found.get(request.request_id, 0) + done)
            ahead = 0
        return forecast

    def _to_prefill(self, request: RequestInfo) -> int:
        """Tokens of its prompt whose KV is not there before it starts."""
        return request.prompt_tokens - self._found.get(request.request_id, 0)

    def _find(self, found: FoundPrefix) -> None:
        request = self.outstanding.get(found.request_id) or self.carry.get(found.request_id)
        if request and found.num_tokens < request.prompt_tokens:
            self._found[found.request_id] = found.num_tokens
            self._forecasts.clear()

    def _prefilled(self, progress: Progress, changes: Changes) -> None:
        self._forecasts.clear()
        self._ahead += sum(step.prompt_tokens for step in progress.steps)
        for request_id in progress.prefilled:
            info = self.outstanding.pop(request_id, None) or self.carry.pop(request_id, None)
            if info:
                self._ahead = max(0, self._ahead - self._to_prefill(info))
                self._found.pop(request_id, None)
                self.blocks.run(request_id)
                self.fresh[request_id] = self._live(info)
                changes.prefilled.append(request_id)
        if not self.outstanding and not self.carry:
            self._ahead = 0

    def _live(self, info: RequestInfo) -> LiveRequest:
        return LiveRequest(info, self.feasible_tpot_s(info), self.decode_steps)

    def _begin(self, request_id: str, base_step: int, start_s: float, changes: Changes) -> None:
        live = self.fresh.pop(request_id, None)
        if live:
            info = live.info
            changes.begun.append(Begun(request_id, start_s - info.arrival_s, info.slo.ttft_s))
            live.decode_start_s = start_s
        else:  # the end of the turn told it already; the report has the step
            live = self.running.get(request_id)
            if live is None or live.base_step == base_step:
                return
            self.running.pop(request_id)
        live.base_step = base_step
        self._run(live)

    def _run(self, live: LiveRequest) -> None:
        self.running.add(live)
        self._forecasts.clear()

    def _finish(self, finished: Finished, at_s: float) -> Ended:
        live = self.running.get(finished.request_id)
        self.forget(finished.request_id)
        ended = Ended(finished.request_id, finished.tokens_out, live.info if live else None)
        if live and live.decode_start_s is not None and finished.tokens_out > 1:
            ended.tpot_s = (at_s - live.decode_start_s) / (finished.tokens_out - 1)
        return ended

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
        """Believes a full report about a request that is unknown, or known otherwise."""
        request_id = member.request_id
        if member.tokens_out == 0 and (request_id in self.outstanding or request_id in self.carry):
            return
        known = self.running.get(request_id) or self.fresh.get(request_id)
        base_step = self.decode_steps - (member.tokens_out - 1)
        if known and (known.decode_start_s is None or known.base_step == base_step):
            return
        info = known.info if known else info_of(member, at_s)
        self.forget(request_id)
        if member.tokens_out == 0:
            self.blocks.wait(info)
            self.carry[request_id] = info
            return
        self.blocks.wait(info)
        self.blocks.run(request_id)
        live = self._live(info)
        if known:
            live.decode_start_s = known.decode_start_s
        elif member.decode_age_s is not None:
            live.decode_start_s = at_s - member.decode_age_s
        live.base_step = base_step
        if live.decode_start_s is None:
            self.fresh[request_id] = live
        else:
            self._run(live)
