"""What a scheduler keeps up to date equals what it would work out anew."""

from __future__ import annotations

import random

from rondo.policy.events import InstanceInfo, TurnClosed
from rondo.policy.load_order import LoadOrder
from rondo.policy.view import InstanceView
from rondo.policy.waiting import WaitingPrompts
from rondo.types import (
    Batching,
    BatchKind,
    FoundPrefix,
    KvOccupancy,
    Phase,
    Progress,
    RequestInfo,
    Slo,
    StepStat,
)
from tests.support.virtual_cluster import PROFILE

KV = KvOccupancy(total_blocks=900, used_blocks=0, free_blocks=900, reserved_blocks=0)
ROUNDS = 300


def request(number: int, prompt_tokens: int) -> RequestInfo:
    return RequestInfo(
        request_id=f"r{number}",
        prompt_tokens=prompt_tokens,
        max_tokens=50,
        predicted_tokens=20,
        slo=Slo(ttft_s=1.0, tpot_s=0.1),
        arrival_s=0.0,
    )


def view(rank: int) -> InstanceView:
    info = InstanceInfo(
        instance_id=f"i{rank}",
        latency=PROFILE,
        block_size=16,
        num_blocks=900,
        max_model_len=9000,
        max_running=64,
        max_prefill_tokens=2048,
    )
    return InstanceView(info, rank)


def progress(turn: int, **changes: object) -> Progress:
    return Progress(
        phase=Phase.FUSED,
        turn=turn,
        decode_steps=0,
        num_running=0,
        num_waiting=0,
        kv=KV,
        **changes,  # type: ignore[arg-type]
    )


def sorted_anew(views: list[InstanceView], prompt_tokens: int) -> list[int]:
    def load(one: InstanceView) -> tuple[bool, int, int]:
        if not one.outstanding:
            return True, 0, one.num_requests
        todo = one.outstanding_tokens
        budget = one.batching.tokens - len(one.running) - len(one.fresh)
        return budget - todo < prompt_tokens, todo, one.num_requests

    return [one.rank for one in sorted(views, key=load)]


def change(one: InstanceView, number: int, rng: random.Random) -> None:
    """Something that happens to an instance."""
    waiting = list(one.outstanding)
    match rng.randrange(6):
        case 0 | 1:
            one.grant([request(number, rng.randrange(1, 900))], 0.0)
            one.batching = Batching(kind=BatchKind.CHUNKED, tokens=rng.randrange(2048))
        case 2:
            one.take(progress(one.turn, prefilled=tuple(waiting[:2])), 0.0)
        case 3 if waiting:
            chunk = StepStat(Phase.FUSED, 0.02, 1, 40, 40, 1600, 0, 0)
            found = FoundPrefix(waiting[-1], 16)
            one.take(progress(one.turn, steps=(chunk,), found=(found,)), 0.0)
        case 4:
            left = tuple(waiting[:1])
            closed = TurnClosed(
                at_s=0.0,
                instance_id=one.info.instance_id,
                turn=one.turn,
                duration_s=0.1,
                leftover=left,
            )
            one.close_turn(closed)
        case _:
            everything = [*waiting, *one.fresh, *one.running, *one.carry]
            if everything:
                one.forget(rng.choice(everything))


def test_the_order_kept_is_the_order_found_anew() -> None:
    rng, views, order = random.Random(5), [view(rank) for rank in range(6)], LoadOrder()
    for one in views:
        order.touch(one)
    next_rank = len(views)
    for number in range(ROUNDS):
        for one in rng.sample(views, 2):
            change(one, number * 10 + one.rank, rng)
            rng.choice((order.touch, order.settle))(one)
        if number % 50 == 49:  # one leaves, another one joins
            order.drop(views.pop(rng.randrange(len(views))))
            views.append(view(next_rank))
            rng.choice((order.touch, order.settle))(views[-1])
            next_rank += 1
        tokens = rng.randrange(1, 1500)
        assert [one.rank for one in order.offer(tokens)] == sorted_anew(views, tokens)


def test_sums_over_waiting_prompts_are_kept() -> None:
    rng, waiting = random.Random(3), WaitingPrompts()
    found: dict[str, int] = {}
    ahead = 0
    for number in range(ROUNDS):
        ids = list(waiting.requests)
        if len(ids) < 3 or rng.random() < 0.4:
            waiting.add(request(number, rng.randrange(50, 900)))
        elif rng.random() < 0.3:
            waiting.add(request(int(ids[0][1:]), 77))  # the same again
        elif rng.random() < 0.5:
            found[ids[-1]] = rng.choice((16, 32))
            waiting.find(waiting.requests[ids[-1]], found[ids[-1]])
        else:
            waiting.advance(10)
            first = waiting.pop(ids[0])
            assert first is not None
            ahead = max(0, ahead + 10 - first.prompt_tokens + found.pop(ids[0], 0))
            waiting.complete(first)
        left = [one.prompt_tokens - found.get(r, 0) for r, one in waiting.requests.items()]
        assert waiting.tokens == sum(left) - ahead
        assert waiting.prompt_tokens == sum(r.prompt_tokens for r in waiting.requests.values())
