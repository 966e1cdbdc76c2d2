"""Full disaggregation: some instances prefill, the others decode, and the KV moves between them.

The design of DistServe (arXiv 2401.09670) and MoonCake (arXiv 2407.00079). A request goes to the
prefill instance with the least predicted work. When its prompt is done, its KV moves to a decode
instance that has room for the prompt and the predicted answer; until there is room it stays where
it is and holds its blocks, which throttles the prefill instances. An answer of one token ends
without a move. Roles are fixed: nobody prefills (or decodes) while no instance of that role is
there. Deviations, all in favour of this policy: decode instances are chosen by load and by the
node they are on, so that a move inside a node is taken while it keeps TPOT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from rondo.errors import InvariantError
from rondo.policy import events
from rondo.policy.changes import Changes
from rondo.policy.macro import MacroState, QueueSettings
from rondo.policy.running import LiveRequest
from rondo.policy.view import InstanceView
from rondo.types import Batching, RequestInfo

#: Share of the TPOT limit up to which a decode instance on the same node is loaded first.
LOCAL_LOAD = 0.8


class FudgSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Roles and places of the instances, in order of joining.

    num_prefill: the first so many prefill, the others decode. 0 leaves it to the order: every
    second one prefills, from the first on. nodes: the node each is on; any beyond has its own.
    """

    num_prefill: int = 0
    nodes: tuple[int, ...] = ()


def spread(num_instances: int, instances_per_node: int) -> tuple[int, ...]:
    """Nodes for instances in order of joining, dealt out one by one: as the prefill instances come
    first, as many instances as possible share a node with one of the other role."""
    num_nodes = -(-num_instances // instances_per_node)
    return tuple(index % num_nodes for index in range(num_instances))


@dataclass(slots=True)
class Handover:
    """A prefilled request that does not decode yet; `target_id` is None until there is room."""

    info: RequestInfo
    source_id: str
    target_id: str | None = None


class FudgScheduler(MacroState):
    """Implements MacroScheduler."""

    def __init__(self, *, queue: QueueSettings, settings: FudgSettings) -> None:
        super().__init__(queue)
        self.settings = settings
        self._batching = Batching()
        self._parked: dict[str, Handover] = {}  # in order of their prefill
        self._moving: dict[str, Handover] = {}

    def prefills(self, view: InstanceView) -> bool:
        """Whether it is a prefill instance."""
        num_prefill = self.settings.num_prefill
        return view.rank < num_prefill if num_prefill else view.rank % 2 == 0

    def node_of(self, view: InstanceView) -> int:
        """The node it is on."""
        nodes = self.settings.nodes
        return nodes[view.rank] if view.rank < len(nodes) else view.rank + len(nodes)

    def check_invariants(self) -> None:
        """Raises InvariantError when a request is in two places."""
        super().check_invariants()
        for request_id, move in self._moving.items():
            if move.target_id not in self.views or request_id in self._parked:
                raise InvariantError(f"fudg: {request_id} moves nowhere, or twice")

    # Hooks

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        views = [v for v in self.views.values() if self.prefills(v) and self.fits(v, request)]
        if views:
            self._admit(min(views, key=self._prefill_cost), request, at_s)

    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        for request_id in changes.gone:
            self._parked.pop(request_id, None)
            if move := self._moving.pop(request_id, None):
                self.effect(events.CancelOn(instance_id=move.source_id, request_id=request_id))
        for begun in changes.begun:
            self._moving.pop(begun.request_id, None)
        for ended in changes.ended:
            self._moving.pop(ended.request_id, None)
        if not self.prefills(view):
            return
        for request_id in changes.prefilled:
            if live := view.fresh.get(request_id):  # else it ended with its first token
                view.forget(request_id)
                self._parked[request_id] = Handover(live.info, view.info.instance_id)
        if again := [*view.grants.resend(at_s), *view.carry]:
            opens = view.grant(list(view.carry.values()), at_s)
            self.send_turn(view, again, opens, self._batching)
        for request in list(self.pending):  # came before any instance that holds them
            if self.fits(view, request):
                self._admit(view, request, at_s)

    def _finish(self, at_s: float) -> None:
        for move in list(self._parked.values()):
            target = self._target_of(move)
            if target is None:
                break  # first come, first served
            self._move(move, target)

    def _leave(self, instance_id: str) -> None:
        for request_id, move in list(self._moving.items()):
            if move.target_id == instance_id:  # the source has it still
                del self._moving[request_id]
                self._parked[request_id] = Handover(move.info, move.source_id)
                self._place_on(request_id, move.source_id)
        super()._leave(instance_id)
        for request_id, move in [*self._parked.items(), *self._moving.items()]:
            if move.source_id == instance_id:
                self._lose(request_id, move)

    # Prefill

    def _prefill_cost(self, view: InstanceView) -> tuple[float, float]:
        """Predicted work; among equals it is good to have an idle decode instance beside."""
        node = self.node_of(view)
        beside = (v.num_requests for v in self._decodes() if self.node_of(v) == node)
        return view.forecast(self._batching).cost_s(), min(beside, default=math.inf)

    def _admit(self, view: InstanceView, request: RequestInfo, at_s: float) -> None:
        cost_s = view.forecast(self._batching).cost_with_s(request.prompt_tokens)
        opens = view.grant([request], at_s)
        decodes = self._decodes()
        tpot_s = min((self._step_with_s(v, request) for v in decodes), default=0.0)
        num = view.num_requests
        self.place(
            events.Admit(
                request_id=request.request_id,
                instance_id=view.info.instance_id,
                turn=view.turn,
                predicted_ttft_s=at_s - request.arrival_s + cost_s,
                predicted_tpot_s=tpot_s,
                reasons=(f"{view.info.instance_id}: least prefill work, {num} there",),
            )
        )
        self.send_turn(view, (request.request_id,), opens, self._batching)

    # Decode

    def _decodes(self) -> list[InstanceView]:
        return [view for view in self.views.values() if not self.prefills(view)]

    def _step_with_s(self, view: InstanceView, request: RequestInfo) -> float:
        """Predicted decode step once the request and all that are on their way there decode."""
        tokens = view.context_tokens() + request.prompt_tokens
        tokens += sum(live.info.prompt_tokens for live in view.fresh.values())
        return view.latency.step_s(0, 0, view.num_requests + 1, tokens)

    def _has_room(self, view: InstanceView, request: RequestInfo) -> bool:
        blocks = view.blocks.needed() + view.blocks.final(request)
        return blocks <= view.info.num_blocks and view.num_requests < view.info.max_running

    def _target_of(self, move: Handover) -> InstanceView | None:
        request, node = move.info, self.node_of(self.views[move.source_id])
        views = [view for view in self._decodes() if self._has_room(view, request)]
        limit_s = LOCAL_LOAD * request.slo.tpot_s

        def cost(view: InstanceView) -> tuple[bool, int]:
            near = self.node_of(view) == node and self._step_with_s(view, request) <= limit_s
            return (not near, view.num_requests)

        return min(views, key=cost, default=None)

    def _move(self, move: Handover, target: InstanceView) -> None:
        request_id, target_id = move.info.request_id, target.info.instance_id
        del self._parked[request_id]
        self._moving[request_id] = move
        move.target_id = target_id
        target.blocks.wait(move.info)
        target.blocks.run(request_id)
        tpot_s = target.feasible_tpot_s(move.info)
        target.fresh[request_id] = LiveRequest(move.info, tpot_s, target.decode_steps)
        self._place_on(request_id, target_id)
        self.effect(
            events.MoveKv(request_id=request_id, source_id=move.source_id, target_id=target_id)
        )

    def _place_on(self, request_id: str, instance_id: str) -> None:
        if admitted := self.placed.get(request_id):
            self.placed[request_id] = msgspec.structs.replace(admitted, instance_id=instance_id)

    def _lose(self, request_id: str, move: Handover) -> None:
        """Its source left with its KV."""
        self._parked.pop(request_id, None)
        self._moving.pop(request_id, None)
        self.placed.pop(request_id, None)
        if move.target_id in self.views:
            self.views[move.target_id].forget(request_id)
            self.effect(events.CancelOn(instance_id=move.target_id, request_id=request_id))
