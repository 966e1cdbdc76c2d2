"""The gateway's side of an answer, against a peer that plays coordinator and worker by script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from rondo.bus import subjects
from rondo.errors import CapacityError, EngineError, InstanceLost
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo_gateway.answers import MAX_UNANSWERED
from tests.support.collect import eventually
from tests.support.generations import complete, read, text_of
from tests.support.peer import Peer, peer_on
from tests.support.services import EOS, metric

TOKENS = (21, 22, 23, 24, 25, 26, 27, 28)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.fixture(params=["memory", "nats"])
async def peer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer_on(request.param, tmp_path) as made:
        yield made


async def test_duplicates_are_dropped_by_index(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    await peer.frame(0, *TOKENS[:3])
    await peer.frame(1, *TOKENS[1:5])
    await peer.frame(2, *TOKENS[2:4])
    await peer.frame(5, *TOKENS[5:], finish=LENGTH)
    await peer.frame(5, *TOKENS[5:], finish=LENGTH)
    await read(generation, result)
    generation.close()
    assert (result.text, result.num_tokens, result.finish) == (text_of(TOKENS), 8, LENGTH)
    await peer.bus.flush()
    assert peer.cancels() == (0, 0)


async def test_a_lost_frame_is_asked_for_once(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:2])
    await peer.frame(2, *TOKENS[2:4], lost=True)
    for index in range(4, 7):
        await peer.frame(index, TOKENS[index])
    assert (await peer.resyncs(1))[0] == 2
    await peer.frame(2, *TOKENS[2:7])
    await peer.frame(7, TOKENS[7], finish=LENGTH)
    await read(generation, result)
    generation.close()
    assert result.text == text_of(TOKENS)
    assert await peer.resyncs(1) == [2]
    assert metric(peer.gateway.registry, "rondo_token_frame_gaps_total") == 1


async def test_frames_out_of_order(peer: Peer) -> None:
    generation, result = await peer.begin()
    late = [
        await peer.frame(index, TOKENS[index], finish=LENGTH if index == 7 else None, lost=True)
        for index in range(8)
    ]
    for position in (0, 2, 1, 3, 5, 7, 6, 4):
        await peer.bus.publish(subjects.tokens("g0"), late[position])
    reading = asyncio.create_task(read(generation, result))
    asked = await peer.resyncs(1)
    await peer.frame(asked[0], *TOKENS[asked[0] :], finish=LENGTH)
    await reading
    generation.close()
    assert (result.text, result.num_tokens, result.finish) == (text_of(TOKENS), 8, LENGTH)


@pytest.mark.parametrize("hole", [True, False])
async def test_the_end_got_lost_or_came_before_the_rest(peer: Peer, hole: bool) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:2])
    await peer.frame(2, *TOKENS[2:7], lost=True)
    await peer.frame(7, EOS, finish=STOP, lost=not hole)
    reading = asyncio.create_task(read(generation, result))
    assert (await peer.resyncs(1))[0] == 2
    assert not reading.done()
    await peer.frame(2, *TOKENS[2:7], EOS, finish=STOP)
    await reading
    generation.close()
    assert (result.text, result.num_tokens, result.finish) == (text_of(TOKENS[:7]), 8, STOP)


async def test_a_lost_resync_is_sent_again(peer: Peer) -> None:
    generation, result = await peer.begin()
    reading = asyncio.create_task(read(generation, result))
    await peer.frame(0, *TOKENS[:2])
    await peer.frame(3, TOKENS[3])
    await peer.resyncs(2)  # the first one found nobody
    await peer.frame(2, *TOKENS[2:], finish=LENGTH)
    await reading
    generation.close()
    assert result.text == text_of(TOKENS)


async def test_an_error_comes_after_the_tokens_that_were_there(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    await peer.frame(3, finish=FinishReason.ERROR, error="out of luck")
    with pytest.raises(EngineError, match="out of luck") as caught:
        await read(generation, result)
    generation.close()
    assert caught.value.request_ids == ("r",)
    assert result.text == text_of(TOKENS[:3])


async def test_an_instance_that_is_gone_ends_its_answers(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    reading = asyncio.create_task(read(generation, result))
    await eventually(lambda: result.num_tokens == 3, "the tokens came")
    await peer.registered(None)
    with pytest.raises(InstanceLost) as caught:
        await reading
    generation.close()
    assert caught.value.instance_id == "w0"
    assert result.text == text_of(TOKENS[:3])


@pytest.mark.parametrize("gone", ["before", "after"])
async def test_a_prompt_on_an_instance_that_is_gone_is_doubted_at_once(
    peer: Peer, gone: str
) -> None:
    if gone == "before":
        await peer.registered(None)
    generation, result = await peer.begin()
    if gone == "after":
        await peer.registered(None)
    with pytest.raises(InstanceLost):
        await read(generation, result)
    generation.close()
    assert await peer.resyncs(1) == [0], "one question, and no others after silences"


async def test_an_instance_that_started_anew_has_lost_its_answers(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    reading = asyncio.create_task(read(generation, result))
    await eventually(lambda: result.num_tokens == 3, "the tokens came")
    await peer.registered("b")
    with pytest.raises(InstanceLost):
        await reading
    generation.close()
    assert peer.to_worker.of(m.Resync) == []


@pytest.mark.parametrize("knows", [True, False])
async def test_a_prompt_sent_around_a_restart_is_asked_for(peer: Peer, knows: bool) -> None:
    generation, result = await peer.begin()
    reading = asyncio.create_task(read(generation, result))
    await peer.registered("b")
    assert (await peer.resyncs(1))[0] == 0
    if knows:
        await peer.frame(0, *TOKENS, finish=LENGTH, incarnation="b")
        await reading
        assert result.text == text_of(TOKENS)
    else:
        await peer.frame(0, finish=FinishReason.ERROR, error="unknown here", incarnation="b", seq=0)
        with pytest.raises(EngineError, match="unknown here"):
            await reading
    generation.close()


async def test_a_worker_that_never_reacts_is_lost(peer: Peer) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    with pytest.raises(InstanceLost):
        await read(generation, result)
    generation.close()
    assert await peer.resyncs(MAX_UNANSWERED) == [3] * MAX_UNANSWERED


async def test_a_worker_that_has_nothing_new_is_not(peer: Peer) -> None:
    generation, result = await peer.begin()
    reading = asyncio.create_task(read(generation, result))
    for count in range(1, MAX_UNANSWERED + 3):
        await peer.resyncs(count)
        await peer.frame(0)
    await peer.frame(0, *TOKENS, finish=LENGTH)
    await reading
    generation.close()
    assert result.finish is LENGTH


async def test_a_refusal_is_a_capacity_error(peer: Peer) -> None:
    peer.reply = m.Rejected(
        request_id="r", reason="queue_full", detail="too much", retry_after_s=2.0
    )
    result = await complete(peer.gateway.generation("r", [20], 8))
    error = cast(CapacityError, result.error)
    assert (error.reason, error.detail, error.retry_after_s) == ("queue_full", "too much", 2.0)


async def test_cancelled_before_it_was_asked_for(peer: Peer) -> None:
    peer.gateway.generation("r", [20], 8).close()
    await peer.gateway.links.bus.flush()
    assert peer.cancels() == (0, 0)


async def test_cancelled_while_waiting_for_admission(peer: Peer) -> None:
    peer.reply = None
    generation = peer.gateway.generation("r", [20], 8)
    starting = asyncio.create_task(generation.start())
    await peer.to_coordinator.first(m.Submit)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    generation.close()
    await peer.to_coordinator.first(m.Cancel)
    assert peer.cancels() == (1, 0)  # nobody knows a worker yet


@pytest.mark.parametrize("tokens", [0, 3])
async def test_cancelled_before_and_amid_its_tokens(peer: Peer, tokens: int) -> None:
    generation, result = await peer.begin()
    reading = asyncio.create_task(read(generation, result))
    await peer.frame(0, *TOKENS[:tokens])
    await eventually(lambda: result.num_tokens == tokens, "the tokens came")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    generation.close()
    await peer.to_coordinator.first(m.Cancel)
    await peer.to_worker.first(m.Cancel)
    assert peer.cancels() == (1, 1)
    assert metric(peer.gateway.registry, "rondo_live_answers") == 0


async def test_a_stop_string_across_tokens_ends_the_answer_early(peer: Peer) -> None:
    generation, result = await peer.begin(stops=("?", text_of(TOKENS[3:5])))
    reading = asyncio.create_task(read(generation, result))
    for index in range(6):
        await peer.frame(index, TOKENS[index])
    await reading
    generation.close()
    assert (result.text, result.finish) == (text_of(TOKENS[:3]), STOP)
    await peer.to_coordinator.first(m.Cancel)
    await peer.to_worker.first(m.Cancel)
    assert peer.cancels() == (1, 1)
