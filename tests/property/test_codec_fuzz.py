"""Bytes that strangers or damage could put on the bus: no crash, and no effect.

A few thousand in a test; RONDO_FUZZ_INPUTS says how many (`make fuzz`: 100,000 of each kind).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rondo.bus.memory import MemoryBus
from rondo.bus.protocol import Subscription
from rondo.errors import DecodeError
from rondo.wire.codec import SCHEMA_VERSION, decode, encode, unpack_tokens
from rondo.wire.messages import Message
from tests.support.boss import PROMPT
from tests.support.buses import MemoryHarness
from tests.support.collect import eventually
from tests.support.generations import complete, servable, start_gateway, text_of
from tests.support.services import expected_tokens, metric, stage_on
from tests.unit.test_codec import KINDS, messages

INPUTS = int(os.environ.get("RONDO_FUZZ_INPUTS", "3000"))
SEED = int(os.environ.get("RONDO_FUZZ_SEED", "1"))
#: Damaged inputs that are made of one message.
MUTANTS = 20
MAX_MUTATIONS = 4
PAUSE_EVERY = 200

#: What msgpack begins containers, texts and extensions of all sizes with.
MARKS = bytes([0x90, 0x9F, 0x80, 0x8F, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7, 0xC9, 0xCB, 0xCF, 0xD3])
MARKS += bytes([0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF, 0x00, 0x7F])


def damaged(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """`data` with some bytes changed, moved, lost, or taken from elsewhere."""
    made = bytearray(data)
    for _ in range(dice.randint(1, MAX_MUTATIONS)):
        begin = dice.randint(0, len(made))
        end = min(len(made), begin + dice.randint(0, 8))
        match dice.randrange(7):
            case 0:
                made[begin:end] = dice.randbytes(end - begin)
            case 1:
                made[begin:begin] = dice.randbytes(dice.randint(1, 8))
            case 2:
                del made[begin:end]
            case 3:
                del made[begin:]
            case 4:
                made[begin:begin] = made[begin:end] * dice.randint(1, 50)
            case 5:
                cut = dice.randint(0, len(other))
                made[begin:end] = other[cut : cut + dice.randint(0, 64)]
            case _:
                made[begin : begin + 1] = bytes([dice.choice(MARKS)])
    if dice.random() < 0.8:  # else nearly everything would end at the version
        made[:1] = bytes([SCHEMA_VERSION])
    return bytes(made)


def check(data: bytes) -> bool:
    """Whether these are a message; which then survives another trip, and nothing else happens."""
    try:
        message = decode(data)
    except DecodeError:
        return False
    assert isinstance(message, KINDS)
    again = encode(message)
    assert encode(decode(again)) == again
    return True


def fuzz(
    name: str, num_examples: int, *strategies: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], None]:
    """Runs a test with so many examples, always the same."""

    def wrapped(test: Any) -> None:
        test = given(*strategies)(test)
        test = settings(
            max_examples=num_examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(test)
        seed(f"{name} {SEED}")(test)()

    return wrapped


def test_damaged_messages() -> None:
    counts = {True: 0, False: 0}

    @fuzz("damaged", INPUTS // MUTANTS, messages(), messages(), st.integers(0, 2**63))
    def sweep(message: Message, other: Message, number: int) -> None:
        dice = random.Random(number)
        for _ in range(MUTANTS):
            counts[check(damaged(encode(message), encode(other), dice))] += 1

    print(f"{sum(counts.values())} damaged messages, {counts[True]} of them still are messages")
    assert sum(counts.values()) >= INPUTS * 0.9
    assert counts[False] > counts[True] > 0


def test_bytes_of_any_kind() -> None:
    dice, total = random.Random(SEED), 0
    for _ in range(INPUTS):
        data = bytes([SCHEMA_VERSION]) + dice.randbytes(dice.choice((1, 8, 40, 400)))
        total += check(data)
        try:
            unpack_tokens(data)
        except DecodeError:
            assert len(data) % 4
    assert total == 0


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xdb\xff\xff\xff\xff",  # a text
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\x91" * 1_000_000,
        b"\x81\xa1a" * 300_000,
    ],
    ids=["array", "map", "text", "bytes", "nested arrays", "nested maps"],
)
def test_sizes_that_are_only_claimed_take_neither_memory_nor_time(body: bytes) -> None:
    whole = msgspec.msgpack.encode({"type": "TokenFrame"})
    for data in (body, whole[:-1] + b"\xa6deltas" + body, b"\x82\xa4type\xa6Cancel\xa1x" + body):
        tracemalloc.start()
        begun_s = time.process_time()
        with pytest.raises(DecodeError):
            decode(bytes([SCHEMA_VERSION]) + data)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.process_time() - begun_s < 1
        assert peak_bytes < 32 * 2**20


def is_message(data: bytes) -> bool:
    try:
        decode(data)
    except DecodeError:
        return False
    return True


@pytest.fixture
def subscribed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects that programs subscribe to, as they do it."""
    subjects: list[str] = []
    subscribe = MemoryBus.subscribe

    async def noted(bus: MemoryBus, subject: str, *args: Any, **kwargs: Any) -> Subscription:
        subjects.append(subject)
        return await subscribe(bus, subject, *args, **kwargs)

    monkeypatch.setattr(MemoryBus, "subscribe", noted)
    return subjects


async def test_nothing_happens_in_programs_that_get_damaged_messages(
    tmp_path: Path, subscribed: list[str]
) -> None:
    corpus: list[bytes] = []

    @fuzz("corpus", 200, messages())
    def collect(message: Message) -> None:
        corpus.append(encode(message))

    dice = random.Random(SEED)
    inputs: list[bytes] = []
    while len(inputs) < INPUTS:
        data = damaged(dice.choice(corpus), dice.choice(corpus), dice)
        if not is_message(data):
            inputs.append(data)
    async with stage_on("memory", tmp_path) as stage:
        assert isinstance(stage.harness, MemoryHarness)
        # One process has to play all of them, and is busy.
        await stage.coordinator(lease_s=60.0, instance_timeout_s=60.0)
        worker = await stage.worker("w0")
        gateway = await start_gateway(await stage.harness.bus("g0"))
        await servable(gateway)
        names = [subject.replace("*", "x") for subject in sorted(set(subscribed))]
        assert len(names) > 5
        stats = [bus.stats for bus in stage.harness.broker.buses.values()]
        before = sum(one.undecodable for one in stats)
        for sent, data in enumerate(inputs):
            await stage.harness.inject(names[sent % len(names)], data)
            if sent % PAUSE_EVERY == 0:
                await asyncio.sleep(0.001)
        await eventually(
            lambda: sum(one.undecodable for one in stats) - before >= len(inputs),
            "all have arrived",
        )
        assert sum(one.handler_errors for one in stats) == 0
        assert metric(gateway.registry, "rondo_live_answers") == 0
        assert metric(worker.registry, "rondo_computed_prompt_tokens_total") == 0
        assert not worker.deaths
        result = await complete(gateway.generation("after", PROMPT, 20))
        assert result.text == text_of(expected_tokens(PROMPT, 20, ignore_eos=True))
        assert metric(worker.registry, "rondo_computed_prompt_tokens_total") == len(PROMPT)
