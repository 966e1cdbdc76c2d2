"""What a gateway records of its answers, and what it tells schedulers of the next ones."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from rondo.lengths import model_file
from rondo.lengths.records import LengthRecord, read_log
from rondo.local.model_folder import find_model
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.settings import GatewaySettings
from tests.support.generations import read
from tests.support.peer import Peer, peer_on
from tests.support.services import EOS, MODEL

TOKENS = (21, 22, 23, 24, 25, 26, 27, 28)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer_on("memory", tmp_path) as made:
        yield made


def use(peer: Peer, **settings: object) -> OutputLengths:
    """Gives the gateway the lengths of other settings."""
    lengths = OutputLengths.of(GatewaySettings(models=f"{MODEL}=/nowhere", **settings))  # type: ignore[arg-type]
    peer.gateway.links = dataclasses.replace(peer.gateway.links, lengths=lengths)
    return lengths


async def answer(peer: Peer, *tokens: int, finish: FinishReason) -> None:
    generation, result = await peer.begin()
    await peer.frame(0, *tokens, finish=finish)
    await read(generation, result)
    generation.close()


def record(output: int, finish: Literal["stop", "length"]) -> LengthRecord:
    return LengthRecord(model=MODEL, prompt=[20, 30], max_tokens=8, output=output, finish=finish)


async def test_an_answer_that_ended_by_itself_is_recorded(peer: Peer, tmp_path: Path) -> None:
    lengths = use(peer, record_lengths=str(tmp_path / "log"))
    await answer(peer, 21, 22, EOS, finish=STOP)
    lengths.close()
    assert read_log(tmp_path / "log") == [record(3, "stop")]


async def test_an_answer_at_its_limit_is_recorded_as_such(peer: Peer, tmp_path: Path) -> None:
    lengths = use(peer, record_lengths=str(tmp_path / "log"))
    await answer(peer, *TOKENS, finish=LENGTH)
    lengths.close()
    assert read_log(tmp_path / "log") == [record(8, "length")]


async def test_an_answer_that_nobody_waited_for_is_not(peer: Peer, tmp_path: Path) -> None:
    lengths = use(peer, record_lengths=str(tmp_path / "log"))
    generation, _ = await peer.begin()
    await peer.frame(0, *TOKENS[:3])
    generation.close()
    lengths.close()
    assert read_log(tmp_path / "log") == []


async def test_schedulers_are_told_what_the_predictor_says(peer: Peer, tmp_path: Path) -> None:
    """rondo-tiny's own, on ids that are no question of its: what counts is that it is asked."""
    file = find_model(None, weights=False) / model_file.FILE_NAME
    lengths = use(peer, lengths=str(file))
    expected = model_file.load(file, "RONDO_LENGTHS").predict([20, 30], 8).expected
    await answer(peer, 21, EOS, finish=STOP)
    [submit] = peer.to_coordinator.of(m.Submit)
    assert submit.predicted_tokens == min(8, round(1.2 * expected))
    assert lengths.predict(MODEL, [20, 30], 1000, exact=False) != round(1.2 * 256)


def test_rondo_tiny_has_a_predictor_that_reads_its_questions() -> None:
    """From the folder alone, as `rondo up` starts it: bytes are tokens from 8 on."""
    folder = find_model(None, weights=False)
    lengths = OutputLengths.of(GatewaySettings(models=f"tiny={folder}"))

    def told(question: str) -> int:
        prompt = [1, 4, *(byte + 8 for byte in question.encode()), 2, 5]
        return lengths.predict("tiny", prompt, 900, exact=False)

    assert told("Count from 1 to 60.") > 100 > 4 * told("What is 12 plus 7?")
