"""KV on its way between simulated instances: who sends what to whom, and when it has arrived."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from rondo.policy.events import MoveKv
from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.instance import SimInstance
from rondo_bench.sim.links import Link, LinkNetwork, Transfer
from rondo_bench.sim.spec import LinkSpec

BYTES_PER_GBIT = 1e9 / 8


@dataclass(slots=True, eq=False)
class Move:
    """A request whose KV goes from one instance to another; no transfer yet: the target is full."""

    request_id: str
    source: SimInstance
    target: SimInstance
    transfer: Transfer | None = None


class KvMover:
    """Performs the moves of one macro-instance.

    The target's blocks are taken when a transfer starts and the source's freed when it ends. As a
    worker sends each layer while the next is computed (MoonCake), a request that finds its target
    at once may have sent `LinkSpec.kv_overlap` of its bytes during its last prefill step, as far as
    its links were idle then.
    """

    def __init__(self, clock: VirtualClock, spec: LinkSpec, kv_bytes_per_token: float) -> None:
        self.num_moves = 0
        self._clock = clock
        self._spec = spec
        self._kv_bytes_per_token = kv_bytes_per_token
        self._network = LinkNetwork(clock)
        self._instances: dict[str, SimInstance] = {}
        self._nodes: dict[str, int] = {}
        self._links: dict[tuple[str, int], Link] = {}
        self._moves: dict[str, Move] = {}
        self._waiting: list[Move] = []

    def place(self, instance: SimInstance, node: int) -> None:
        """An instance joined, on this node."""
        self._instances[instance.info.instance_id] = instance
        self._nodes[instance.info.instance_id] = node

    def order(self, effect: MoveKv) -> bool:
        """Starts a move, or lets it wait for blocks behind others with the same target.

        False: the source has the request no more, for it had reached an instance that failed.
        """
        source = self._instances.get(effect.source_id)
        target = self._instances.get(effect.target_id)
        if source is None or target is None:  # the policy will hear of it
            return True
        if effect.request_id not in source.scheduler.board.moving:
            return False
        move = Move(effect.request_id, source, target)
        if any(other.target is target for other in self._waiting) or not self._begin(move):
            self._waiting.append(move)
        return True

    def retry(self, target: SimInstance) -> None:
        """Blocks may have come free on an instance."""
        for move in [move for move in self._waiting if move.target is target]:
            if not self._begin(move):
                break
            self._waiting.remove(move)

    def drop(self, instance: SimInstance) -> None:
        """An instance is gone: what came from it is lost, what went to it stays at its source."""
        del self._instances[instance.info.instance_id]
        self._waiting = [m for m in self._waiting if instance not in (m.source, m.target)]
        for move in [m for m in self._moves.values() if instance in (m.source, m.target)]:
            del self._moves[move.request_id]
            if move.transfer:
                self._network.cancel(move.transfer)
            if move.target is not instance:
                move.target.cancel(move.request_id)

    def _begin(self, move: Move) -> bool:
        """Takes the target's blocks and starts the transfer; False: not enough blocks."""
        job = move.source.scheduler.board.moving[move.request_id]
        if not move.target.scheduler.board.expect(replace(job)):
            return False
        self.num_moves += 1
        self._moves[move.request_id] = move
        num_bytes = job.cached * self._kv_bytes_per_token
        early_s = move.source.prefill_steps_s.pop(move.request_id, 0.0)
        since_s = move.source.requests[move.request_id].first_token_s
        at_once = since_s is not None and self._clock.now_s - since_s <= self._spec.at_once_s
        move.transfer = self._network.send(
            self._route(move),
            num_bytes,
            partial(self._land, move),
            early_bytes=num_bytes * self._spec.kv_overlap if at_once else 0.0,
            early_s=early_s,
        )
        return True

    def _land(self, move: Move) -> None:
        if self._moves.get(move.request_id) is move:
            del self._moves[move.request_id]
            move.target.receive(move.request_id, move.source.release(move.request_id))

    def _route(self, move: Move) -> tuple[Link, ...]:
        source = self._nodes[move.source.info.instance_id]
        target = self._nodes[move.target.info.instance_id]
        gbps = self._spec.link_gbps
        if source == target:  # never slower than leaving the node and coming back
            return self._link("within", source, max(gbps, self._spec.intra_node_gbps))
        return (*self._link("out", source, gbps), *self._link("in", target, gbps))

    def _link(self, kind: str, node: int, gbps: float) -> tuple[Link, ...]:
        """A link that can be a bottleneck, or none."""
        if math.isinf(gbps):
            return ()
        known = self._links.get((kind, node))
        if known is None:
            known = self._links[kind, node] = Link(gbps * BYTES_PER_GBIT)
        return (known,)
