"""What a macro-instance scheduler believes of one instance, from its grants and reports."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.perf.correction import CorrectedModel
from rondo.policy.changes import Begun, Changes, Ended, spent_since
from rondo.policy.events import InstanceInfo, TurnClosed
from rondo.policy.forecast import Forecast
from rondo.policy.grants import Grants
from rondo.policy.placed import PlacedBlocks
from rondo.policy.running import LiveRequest, RunningSet, info_of
from rondo.policy.waiting import WaitingPrompts
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

#: A TPOT limit that even a lone request would miss is taken as this multiple of its decode step, so
#: that requests are batched all the same.
INFEASIBLE_TPOT_FACTOR = 4.0
#: Prompt tokens that a chunked step takes at least, however many sequences decode.
LEAST_CHUNK_TOKENS = 16


class InstanceView:
    """Mutable state; `rank` is the order of joining and breaks ties.

    Args:
        counts_turns: keep `handed` for a policy that asks for it.
    """

    def __init__(self, info: InstanceInfo, rank: int, *, counts_turns: bool = False) -> None:
        self.info = info
        self.latency = CorrectedModel(info.latency)
        self.rank = rank
        self.kv_tokens = info.num_blocks * info.block_size
        self.most_tokens = min(info.max_model_len, self.kv_tokens)  # of a request
        self.turn = 0
        self.turn_open = False
        self.batching = Batching()  # of the last grant
        self.decode_steps = 0
        self.phase = Phase.IDLE
        self.grants = Grants()
        self.waiting = WaitingPrompts()
        self.outstanding = self.waiting.requests  # granted, not yet prefilled
        self.fresh: dict[str, LiveRequest] = {}  # prefilled, decode not begun yet
        self.running = RunningSet()
        self.carry: dict[str, RequestInfo] = {}  # on the instance, but without a grant
        self.handed = Forecast(self.latency, info.max_prefill_tokens)  # since decode resumed last
        self.blocks = PlacedBlocks(info.block_size)
        self.groups: dict[int, int] = {}  # `step_size`: kept until decodes or latencies change
        self.num_chunks = 1  # in the last step that was sized: the next is about as large
        self._counts_turns = counts_turns
        self._forecasts: list[tuple[Batching, Forecast]] = []  # few, and hashing them is dear

    # Questions

    @property
    def num_requests(self) -> int:
        """Everything placed here."""
        return len(self.outstanding) + len(self.fresh) + self.running.num + len(self.carry)

    @property
    def num_riders(self) -> int:
        """Everything that decodes, or will with the next step."""
        return self.running.num + len(self.fresh)

    @property
    def outstanding_tokens(self) -> int:
        """Prompt tokens that are granted and not computed yet."""
        return self.waiting.tokens

    def context_tokens(self) -> int:
        """Tokens in the KV cache of the requests that decode."""
        running = self.running
        return running.context_key + self.decode_steps * running.num

    def forecast(self, batching: Batching) -> Forecast:
        """What is left of the turn, if its steps are filled in this way."""
        for known, forecast in self._forecasts:
            if known.tokens == batching.tokens and known.kind is batching.kind:
                return forecast
        forecast = self._build_forecast(batching)
        self._forecasts.append((batching, forecast))
        return forecast

    def alone_s(self, prompt_tokens: int) -> float:
        """Predicted prefill time of one prompt on this instance, were it idle."""
        if prompt_tokens <= self.info.max_prefill_tokens:
            return self.latency.step_s(prompt_tokens, prompt_tokens * prompt_tokens, 0, 0)
        return Forecast(self.latency, self.info.max_prefill_tokens).cost_with_s(prompt_tokens)

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
        return self.latency.step_s(0, 0, self.running.num, self.context_tokens())

    # Changes

    def grant(self, requests: Iterable[RequestInfo], at_s: float) -> bool:
        """Adds requests to the open turn, or opens the next one; says whether it is new."""
        opened = not self.turn_open
        if opened:
            self.turn += 1
            self.turn_open = True
        for request in requests:
            if self.carry.pop(request.request_id, None):
                self._forecasts.clear()  # half done, perhaps
            for _, forecast in self._forecasts:
                forecast.defer(request.prompt_tokens)
            if self._counts_turns:
                self.handed.add(request.prompt_tokens)
            self.blocks.wait(request)
            self.waiting.add(request)
            self.grants.add(request.request_id, at_s)
        return opened

    def forget(self, request_id: str) -> None:
        """Drops a request wherever it is."""
        self.blocks.drop(request_id)
        self._forecasts.clear()
        self.groups.clear()
        self.waiting.forget(request_id)
        self.running.pop(request_id)
        self.fresh.pop(request_id, None)
        self.carry.pop(request_id, None)

    def close_turn(self, event: TurnClosed) -> Changes:
        """Decode resumed: the turn's requests decode from now on."""
        changes = Changes()
        if event.turn != self.turn:
            return changes
        self.phase = Phase.DECODE
        if self._counts_turns:
            self.handed = Forecast(self.latency, self.info.max_prefill_tokens)
        self._forecasts.clear()
        self.groups.clear()
        for request_id in event.leftover:
            if request := self.waiting.pop(request_id):
                self.carry[request_id] = request
        for request_id in list(self.fresh):
            self._begin(request_id, self.decode_steps, event.at_s, changes)
        return changes

    def take(self, progress: Progress, at_s: float) -> Changes:
        """Takes a report in."""
        changes = Changes()
        self.groups.clear()
        self.phase = progress.phase
        self.blocks.used_blocks = progress.kv.used_blocks - progress.kv.background_blocks
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
            self.grants.look_for_lost(progress.members, self.outstanding, at_s)
        return changes

    # Internals

    def _build_forecast(self, batching: Batching) -> Forecast:
        tokens = batching.tokens or self.info.max_prefill_tokens
        if batching.kind is BatchKind.SEPARATE:
            forecast = Forecast(self.latency, tokens)
        else:
            riders = self.running.num
            if batching.kind is BatchKind.CHUNKED:
                tokens = max(LEAST_CHUNK_TOKENS, tokens - riders)
            forecast = Forecast(self.latency, tokens, riders, self.context_tokens())
        if self.outstanding:
            self.waiting.queue_in(forecast)
        return forecast

    def _find(self, found: FoundPrefix) -> None:
        request = self.outstanding.get(found.request_id) or self.carry.get(found.request_id)
        if request and found.num_tokens < request.prompt_tokens:
            self.waiting.find(request, found.num_tokens)
            self._forecasts.clear()

    def _prefilled(self, progress: Progress, changes: Changes) -> None:
        self._forecasts.clear()
        steps = (step for step in progress.steps if not step.background_tokens)
        self.waiting.advance(sum(step.prompt_tokens for step in steps))
        for request_id in progress.prefilled:
            info = self.waiting.pop(request_id) or self.carry.pop(request_id, None)
            if info:
                self.waiting.complete(info)
                self.blocks.run(request_id)
                self.fresh[request_id] = self._live(info)
                changes.prefilled.append(request_id)
        if not self.outstanding and not self.carry:
            self.waiting.settle()

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
        gone += self.grants.unnamed(named, self.outstanding, at_s)
        for request_id in gone:
            self.forget(request_id)
        for member in members:
            if not member.background:  # those are `BackgroundDesk`'s
                self._adopt(member, at_s)
        return gone

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
