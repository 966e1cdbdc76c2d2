"""A pipeline's step that is run again because another spoilt it: its requests notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llguidance import LLMatcher

import rondo
from rondo.logprobs import Logprobs
from rondo.policy.plan import PlanItem, StepPlan
from rondo.types import Phase, Sampling
from rondo_worker.engines.pipeline import PipelineEngine
from tests.support.drive import request

TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
SIZE = 16
NUM_BLOCKS = 30
NOWHERE = [10**6] * NUM_BLOCKS
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def engine() -> Iterator[PipelineEngine]:
    made = PipelineEngine.load(
        TINY, num_stages=2, device="cpu", dtype="float32", block_size=SIZE, num_blocks=NUM_BLOCKS
    )
    yield made
    made.close()


def table(index: int) -> range:
    return range(index * 10, index * 10 + 10)


def fused(chunks: list[PlanItem], decode: PlanItem | None = None) -> StepPlan:
    """Chunks, and a decode beside them."""
    if decode is None:
        return StepPlan(Phase.PREFILL, chunks)
    phase = Phase.FUSED if chunks else Phase.DECODE
    return StepPlan(phase, chunks, 1, decode.start, lambda: [decode])


def run(engine: PipelineEngine, *, spoil: bool) -> tuple[list[int], int, Logprobs]:
    """The tokens of an answer that has a form; first token and logprobs of a prompt whose last
    chunk is computed amid it, in a step that another request may spoil."""
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
    form = request("form", range(40, 60), 40, Sampling(seed=5, grammar=grammar), ignore_eos=False)
    scored = request("scored", range(60, 92), 4, Sampling(temperature=0.0, prompt_logprobs=2))
    bad = request("bad", range(40, 72), 4)
    for item in (form, scored, bad):
        engine.add(item)

    def decode() -> PlanItem:
        return PlanItem("form", len(form.prompt) + len(got) - 1, 1, table(0))

    got = [engine.step(fused([PlanItem("form", 0, len(form.prompt), table(0))]))["form"]]
    engine.step(fused([PlanItem("scored", 0, SIZE, table(1))]))
    while len(got) < 4:
        got.append(engine.step(fused([], decode()))["form"])
    last = PlanItem("scored", SIZE, len(scored.prompt) - SIZE, table(1))
    if spoil:
        engine.submit(fused([PlanItem("bad", 0, SIZE, NOWHERE)]))
        engine.submit(fused([last, PlanItem("bad", SIZE, SIZE, table(2))], decode()))
        for _ in range(2):
            done = engine.take(30.0)
            assert done is not None
            assert done.error is not None
    tokens = engine.step(fused([last], decode()))
    got.append(tokens["form"])
    prompt = engine.take_logprobs().prompts["scored"]
    while got[-1] not in engine.spec.eos_token_ids and len(got) < form.max_tokens:
        got.append(engine.step(fused([], decode()))["form"])
    for item in (form, scored, bad):
        engine.remove(item.request_id)
    return got, tokens["scored"], prompt


def test_grammars_advance_once_and_prompts_keep_their_logprobs(engine: PipelineEngine) -> None:
    assert run(engine, spoil=True) == run(engine, spoil=False)
