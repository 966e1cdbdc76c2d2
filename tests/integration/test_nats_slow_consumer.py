"""A client that does not read: the server gives it up, nobody waits for it, and it comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from rondo.bus.sequence import Gap, SequenceTracker
from rondo.types import FinishReason
from rondo.wire.messages import Resync, TokenDelta, TokenFrame
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import Collector, eventually
from tests.support.faults import Relay, behind_relay
from tests.support.nats import ServerUnderTest
from tests.support.services import Stage, Tap, expected_tokens, steps_of

SLOW = subjects.tokens("slow")
QUICK = subjects.tokens("quick")
#: More than all buffers between the server and a client that does not read.
NUM_LARGE = 300
LARGE_TOKENS = tuple(range(60_000))


def frame(seq: int, tokens: tuple[int, ...] = (1,)) -> TokenFrame:
    return TokenFrame(
        instance_id="w0", incarnation="a", seq=seq, deltas=(TokenDelta("r", 0, tokens),)
    )


async def test_the_server_gives_up_who_does_not_read(tmp_path: Path) -> None:
    server = ServerUnderTest(tmp_path, config='write_deadline: "300ms"')
    await server.start()
    relay = Relay(server.url)
    slow = NatsBus(await relay.start(), name="slow")
    quick, worker = NatsBus(server.url, name="quick"), NatsBus(server.url, name="worker")
    for bus in (slow, quick, worker):
        await bus.connect()
    gaps: list[Gap] = []
    seen = SequenceTracker(from_first=True)
    got: Collector[int] = Collector()

    def on_slow(incoming: Incoming) -> None:
        assert isinstance(incoming.message, TokenFrame)
        problem = seen.observe("w0", "a", incoming.message.seq)
        if isinstance(problem, Gap):
            gaps.append(problem)
        got(incoming.message.seq)

    waits_s: list[float] = []
    sent_s: dict[int, float] = {}

    def on_quick(incoming: Incoming) -> None:
        assert isinstance(incoming.message, TokenFrame)
        waits_s.append(time.monotonic() - sent_s[incoming.message.seq])

    await slow.subscribe(SLOW, on_slow)
    await quick.subscribe(QUICK, on_quick)
    relay.hold()
    large = frame(0, LARGE_TOKENS)
    for seq in range(NUM_LARGE):
        await worker.publish(SLOW, large)
        sent_s[seq] = time.monotonic()
        await worker.publish(QUICK, frame(seq))
        await asyncio.sleep(0)
    await eventually(lambda: len(waits_s) == NUM_LARGE, "the other client has everything")
    assert sorted(waits_s)[NUM_LARGE // 2] < 0.1
    assert max(waits_s) < 1.5, "nobody waited for the one that does not read"
    await eventually(lambda: "Slow Consumer" in server.log_file.read_text(), "it is given up")
    relay.release()
    await eventually(lambda: slow.stats.reconnects == 1, "it has come back")
    await worker.publish(SLOW, frame(NUM_LARGE))
    await got.until(lambda seqs: NUM_LARGE in seqs)
    assert gaps, "it knows that it has missed something"
    for bus in (slow, quick, worker):
        await bus.close()
    await relay.stop()
    await server.stop()


async def test_a_gateway_that_hung_gets_its_answer_nevertheless(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss = await boss_of(stage)
    await stage.worker(profile=steps_of(5.0, 10.0))
    monkeypatch.setattr("rondo.bus.nats_link.PING_INTERVAL_S", 0.1)
    async with behind_relay(stage.harness, "hung") as (bus, relay):
        tap = Tap()
        await bus.subscribe(SLOW, tap.on_message)
        await boss.prompt("theirs", 60, gateway_id="slow")
        await boss.prompt("ours", 60)
        await boss.grant("theirs", "ours")
        await tap.first(TokenFrame, 3)
        relay.hold()
        began_s = time.monotonic()
        assert (await boss.end("ours")).finish is FinishReason.LENGTH
        assert time.monotonic() - began_s < 5, "the worker did not wait for it"
        await eventually(lambda: not bus.connected, "it was taken for lost")
        relay.release()
        await eventually(lambda: bus.stats.reconnects > 0, "it is back")
        [first, *_] = tap.of(TokenFrame)
        num_heard = len(tap.of(TokenFrame))
        resync = Resync(request_id="theirs", gateway_id="slow", from_index=0)
        await bus.publish(subjects.run("w0"), resync)
        [*_, last] = await tap.first(TokenFrame, num_heard + 1)
        assert last.seq > num_heard, "frames were lost"
        [delta] = last.deltas
        assert (delta.index, delta.finish) == (0, FinishReason.LENGTH)
        assert list(delta.tokens) == expected_tokens(PROMPT, 60, ignore_eos=True)
        assert first.incarnation == last.incarnation
