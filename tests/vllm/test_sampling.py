"""What requests may ask of vLLM's sampler: logprobs, forms, biases, minimal lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer

import rondo
from rondo.logprobs import Logprobs
from rondo.types import Sampling
from rondo_worker.engines.base import EngineRequest
from rondo_worker.engines.vllm import VllmEngine
from tests.support.drive import Driver, collect_logprobs, request
from tests.support.reference import reference_logits

TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
GREEDY: Any = {"temperature": 0.0}
COMPACT: Any = {"whitespace_flexible": False}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    engine = VllmEngine.load(TINY, device="cpu", dtype="float32", block_size=32, num_blocks=200)
    yield engine
    engine.close()


def test_logprobs_are_those_of_a_full_pass(engine: VllmEngine) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    driver = Driver(engine, max_prefill_tokens=20)
    asked = {"a": (0, None), "b": (4, 3), "c": (2, 0), "d": (None, None)}
    for number, (name, (own, before)) in enumerate(asked.items()):
        sampling = Sampling(**GREEDY, logprobs=own, prompt_logprobs=before)
        driver.submit(request(name, range(40, 70 + number), 10, sampling))
    rows, prompts = collect_logprobs(driver)
    assert (set(rows), set(prompts)) == ({"a", "b", "c"}, {"b", "c"})
    for number, (name, (own, before)) in enumerate(asked.items()):
        tokens = [*range(40, 70 + number), *driver.answers[name]]
        begin = 30 + number
        table = reference_logits(model, tokens).log_softmax(-1)
        if own is not None:
            check(Logprobs.join(rows[name]), table[begin - 1 : -1], tokens[begin:], own)
        if before is not None:
            check(prompts[name], table[: begin - 1], tokens[1:begin], before)


def check(packed: Logprobs, table: torch.Tensor, tokens: list[int], num_top: int) -> None:
    assert (len(packed), packed.num_top) == (len(tokens), num_top)
    for row, line, token in zip(packed.rows(), table, tokens, strict=True):
        assert row.logprob == pytest.approx(float(line[token]), abs=2e-2)
        best = line.topk(num_top).values.tolist()
        assert [value for _, value in row.top] == pytest.approx(best, abs=2e-2)


def test_a_grammar_is_followed_beside_free_requests_and_after_a_move(engine: VllmEngine) -> None:
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA, overrides=COMPACT)
    sampling = Sampling(temperature=1.2, seed=5, grammar=grammar)
    driver = Driver(engine)
    driver.submit(request("free", range(40, 60), 40, Sampling(**GREEDY), ignore_eos=False))
    driver.submit(request("json", range(40, 60), 120, sampling, ignore_eos=False))
    tokens = driver.run()["json"]
    text = Tokenizer.from_file(str(TINY / "tokenizer.json")).decode(tokens)
    assert set(json.loads(text)) == {"name", "age"}
    rest = Driver(engine)
    begun = (*range(40, 60), *tokens[:6])
    rest.submit(EngineRequest("rest", begun, 100, sampling, False, num_resumed=6))
    assert rest.run()["rest"] == tokens[6:]


def test_biases_and_minimal_lengths(engine: VllmEngine) -> None:
    [eos] = engine.spec.eos_token_ids
    driver = Driver(engine)
    forced = Sampling(**GREEDY, logit_bias=((77, 100.0),))
    ends = Sampling(**GREEDY, logit_bias=((eos, 100.0),), min_tokens=6, stop_token_ids=(9,))
    driver.submit(request("forced", range(40, 60), 8, forced))
    driver.submit(request("ends", range(40, 60), 20, ends, ignore_eos=False))
    driver.run()
    assert driver.answers["forced"] == [77] * 8
    assert len(driver.answers["ends"]) == 7
    assert driver.answers["ends"][-1] == eos
