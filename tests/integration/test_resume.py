"""An answer whose instance is lost goes on elsewhere, and the client sees nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.errors import EngineError, InstanceLost
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo.wire.codec import unpack_tokens
from rondo_gateway.generation import Generation
from tests.support.generations import Result, read, text_of
from tests.support.peer import Peer, peer_on
from tests.support.services import metric

TOKENS = [50, 51, 52, 53, 54, 55, 56, 57]


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer_on("memory", tmp_path, max_attempts=3) as made:
        yield made


async def resumed(peer: Peer, number: int) -> tuple[m.Submit, m.Run]:
    """What the gateway sent for a later try."""
    submit = (await peer.to_coordinator.first(m.Submit, number))[-1]
    run = (await peer.to_worker.first(m.Run, number))[-1]
    assert submit.request_id == run.request_id == f"r~{number}"
    return submit, run


async def finished(generation: Generation, result: Result) -> Result:
    await read(generation, result)
    generation.close()
    return result


async def test_the_rest_is_asked_for_with_the_tokens_so_far(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    await peer.frame(3, finish=FinishReason.ERROR, error="out of memory")
    peer.script(lambda: peer.frame(0, *TOKENS[3:], finish=FinishReason.LENGTH, request_id="r~2"))
    await finished(generation, result)
    assert (result.text, result.num_tokens) == (text_of(TOKENS), 8)
    assert result.finish is FinishReason.LENGTH
    submit, run = await resumed(peer, 2)
    assert (submit.prompt_tokens, submit.max_tokens) == (5, 5)
    assert submit.age_s < 0.5, "it is not late because the first try was"
    assert unpack_tokens(run.prompt) == [20, 30, *TOKENS[:3]]
    assert (run.num_resumed, run.max_tokens) == (3, 5)
    assert metric(peer.gateway.registry, "rondo_resumed_answers_total") == 1


async def test_what_the_first_instance_still_says_is_nobodys(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    await peer.frame(3, finish=FinishReason.CANCELLED)

    async def both_talk() -> None:
        await peer.frame(3, 90, 91, 92)
        await peer.frame(0, *TOKENS[3:5], request_id="r~2")
        await peer.frame(6, 93, finish=FinishReason.LENGTH)
        await peer.frame(2, *TOKENS[5:], finish=FinishReason.LENGTH, request_id="r~2")

    peer.script(both_talk)
    await finished(generation, result)
    assert result.text == text_of(TOKENS)
    assert [cancel.request_id for cancel in peer.to_worker.of(m.Cancel)] == ["r"]


async def test_a_stop_string_across_the_break_is_found(peer: Peer) -> None:
    generation, result = await peer.begin(stops=(text_of(TOKENS[2:5]),))
    await peer.frame(0, *TOKENS[:4])
    await peer.frame(4, finish=FinishReason.CANCELLED)
    peer.script(lambda: peer.frame(0, *TOKENS[4:6], request_id="r~2"))
    await finished(generation, result)
    assert (result.text, result.finish) == (text_of(TOKENS[:2]), FinishReason.STOP)


async def test_when_only_the_end_was_lost_nothing_is_computed_again(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS)
    await peer.frame(8, finish=FinishReason.CANCELLED)
    await finished(generation, result)
    assert (result.text, result.finish) == (text_of(TOKENS), FinishReason.LENGTH)
    assert len(peer.to_coordinator.of(m.Submit)) == 1


async def test_instances_are_tried_so_often_and_no_more(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, TOKENS[0])
    await peer.frame(1, finish=FinishReason.CANCELLED)

    async def lose_both() -> None:
        await peer.frame(0, TOKENS[1], request_id="r~2")
        await peer.frame(1, finish=FinishReason.CANCELLED, request_id="r~2")
        await peer.to_worker.first(m.Run, 3)
        await peer.frame(0, finish=FinishReason.CANCELLED, request_id="r~3")

    peer.script(lose_both)
    with pytest.raises(InstanceLost):
        await read(generation, result)
    generation.close()
    assert result.text == text_of(TOKENS[:2])
    assert len(peer.to_worker.of(m.Run)) == 3


async def test_a_request_that_breaks_engines_is_not_handed_round(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, finish=FinishReason.ERROR, error="bad")
    peer.script(lambda: peer.frame(0, finish=FinishReason.ERROR, error="bad", request_id="r~2"))
    with pytest.raises(EngineError, match="bad"):
        await read(generation, result)
    generation.close()
    assert len(peer.to_worker.of(m.Run)) == 2


async def test_a_refusal_is_asked_again_until_time_is_up(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, TOKENS[0])
    peer.reply = m.Rejected(request_id="r~2", reason="overloaded", detail="full", retry_after_s=0.1)
    await peer.frame(1, finish=FinishReason.CANCELLED)
    with pytest.raises(InstanceLost):  # what went wrong, not what was tried then
        await read(generation, result)
    generation.close()
    assert len(peer.to_coordinator.of(m.Submit)) > 5
    assert result.text == text_of(TOKENS[:1])
