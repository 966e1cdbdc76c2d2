"""The candidates of one HTTP request: what they share, and what each has of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from rondo import tracing
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo_gateway.generation import Generation
from rondo_gateway.job import Job
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.responses import Kind
from rondo_gateway.text.model_files import ModelFiles
from tests.support.peer import Peer, peer_on
from tests.support.services import GREEDY, MODEL, SLO, VOCAB_SIZE

PREDICTED = 37


class Predictor(OutputLengths):
    """Says the same of every prompt, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Sequence[int], int]] = []

    def predict(
        self, model: str, prompt: Sequence[int], max_tokens: int, *, exact: bool, done: int = 0
    ) -> int:
        self.asked.append((prompt, done))
        return PREDICTED - done


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer_on("memory", tmp_path, max_attempts=2) as made:
        yield made


def job(peer: Peer, prompts: list[list[int]], per_prompt: int) -> Job:
    samplings = tuple(
        msgspec.structs.replace(GREEDY, seed=seed) for seed in range(len(prompts) * per_prompt)
    )
    plan = GenerationPlan(
        samplings=samplings,
        kept=per_prompt,
        max_tokens=100,
        default_max_tokens=None,
        stops=(),
        ignore_eos=False,
        slo=SLO,
        stream=False,
        include_usage=False,
    )
    files = ModelFiles(
        name=MODEL,
        tokenizer=peer.gateway.tokenizer,
        special_tokens={},
        chat_template=None,
        max_model_len=1000,
        vocab_size=VOCAB_SIZE,
        default_sampling=GREEDY,
    )
    return Job(Kind.TEXT, files, 1000, prompts, "prompt", plan, 0.0)


async def test_candidates_of_a_prompt_are_predicted_once(peer: Peer) -> None:
    predictor = Predictor()
    links = dataclasses.replace(peer.gateway.links, lengths=predictor)
    found = job(peer, [[20, 30], [40]], 3).candidates("c", tracing.NOTHING, predictor)
    assert [one.request_id for one in found] == [f"c-{index}" for index in range(6)]
    assert [one.tokens for one in found] == [[20, 30]] * 3 + [[40]] * 3
    assert [one.sampling.seed for one in found] == [*range(6)]
    generations = [Generation(links, one, peer.gateway.tokenizer) for one in found]
    await generations[0].start()
    [submit] = peer.to_coordinator.of(m.Submit)
    assert submit.predicted_tokens == PREDICTED
    for generation in generations:
        generation.close()
    assert predictor.asked == [([20, 30], 0), ([40], 0)]


async def test_what_is_left_of_an_answer_is_predicted_anew(peer: Peer) -> None:
    predictor = Predictor()
    peer.gateway.links = dataclasses.replace(peer.gateway.links, lengths=predictor)
    [prompt] = job(peer, [[20, 30]], 1).candidates("c", tracing.NOTHING, predictor)
    generation = Generation(peer.gateway.links, prompt, peer.gateway.tokenizer)
    await generation.start()
    await peer.frame(0, 21, 22, request_id="c-0")
    pieces = generation.pieces()
    assert (await anext(pieces)).num_tokens == 2
    peer.script(lambda: peer.frame(0, 23, request_id="c-0~2"))
    await peer.frame(2, finish=FinishReason.ERROR, error="out of memory", request_id="c-0")
    assert (await anext(pieces)).num_tokens == 3
    generation.close()
    told = [submit.predicted_tokens for submit in peer.to_coordinator.of(m.Submit)]
    assert told == [PREDICTED, PREDICTED - 2]
    assert [done for _, done in predictor.asked] == [0, 2]
