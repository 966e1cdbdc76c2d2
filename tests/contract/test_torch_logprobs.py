"""Logprobs, biases, grammars and minimal lengths in the torch engine, against plain torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher

import rondo
from rondo.logprobs import Logprobs
from rondo.policy.plan import PlanItem, plan_of
from rondo.types import Phase, Sampling
from rondo_worker.engines.base import EngineRequest, UnsupportedRequest
from rondo_worker.engines.torch import TorchEngine
from tests.support.drive import Driver, collect_logprobs, request
from tests.support.models import EOS_TOKEN_ID, save_model
from tests.support.reference import prompt, reference_logits

GREEDY: Any = {"temperature": 0.0}
TINY = Path(rondo.__file__).parent / "models" / "rondo-tiny"
COMPACT: Any = {"whitespace_flexible": False}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def load(folder: Path, **options: Any) -> TorchEngine:
    sizes: dict[str, Any] = {"block_size": 4, "num_blocks": 200, **options}
    return TorchEngine.load(folder, device="cpu", dtype="float32", **sizes)


@pytest.mark.parametrize("num_blocks", [200, 44])  # with 44 some are preempted
def test_logprobs_of_prompts_and_answers_are_those_of_a_full_pass(
    tmp_path: Path, num_blocks: int
) -> None:
    model = save_model(tmp_path, "llama")
    driver = Driver(load(tmp_path, num_blocks=num_blocks), max_prefill_tokens=10)
    asked = {"r0": (0, None), "r1": (5, 3), "r2": (None, 0), "r3": (2, 2), "r4": (None, None)}
    for number, (name, (own, before)) in enumerate(asked.items()):
        sampling = Sampling(**GREEDY, logprobs=own, prompt_logprobs=before)
        driver.submit(request(name, prompt(25 + number, number), 20, sampling))
    rows, prompts = collect_logprobs(driver)
    assert (driver.scheduler.num_preempted > 0) == (num_blocks == 44)
    assert set(rows) == {"r0", "r1", "r3"}
    assert set(prompts) == {"r1", "r2", "r3"}
    for number, (name, (own, before)) in enumerate(asked.items()):
        tokens = [*prompt(25 + number, number), *driver.answers[name]]
        table = reference_logits(model, tokens).log_softmax(-1)
        begin = 25 + number
        if own is not None:
            check(Logprobs.join(rows[name]), table[begin - 1 : -1], tokens[begin:], own)
        if before is not None:
            check(prompts[name], table[: begin - 1], tokens[1:begin], before)


def check(packed: Logprobs, table: torch.Tensor, tokens: list[int], num_top: int) -> None:
    """Compares packed rows with log-softmax rows."""
    assert (len(packed), packed.num_top) == (len(tokens), num_top)
    for row, line, token in zip(packed.rows(), table, tokens, strict=True):
        assert row.logprob == pytest.approx(float(line[token]), abs=1e-3)
        best = line.topk(num_top)
        assert [value for _, value in row.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        for index, value in row.top:
            assert value == pytest.approx(float(line[index]), abs=1e-3)


def test_a_bias_forces_and_forbids_tokens(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    driver = Driver(load(tmp_path))
    free = request("free", prompt(12, 1), 8, Sampling(**GREEDY))
    driver.submit(free)
    driver.submit(request("force", prompt(12, 1), 8, Sampling(**GREEDY, logit_bias=((77, 100.0),))))
    driver.run()
    first = driver.answers["free"][0]
    assert driver.answers["force"] == [77] * 8
    driver.submit(
        request("not", prompt(12, 1), 8, Sampling(**GREEDY, logit_bias=((first, -100.0),)))
    )
    driver.run()
    assert first not in driver.answers["not"]


def test_no_end_before_the_minimal_length(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    wanted: Any = {"logit_bias": ((EOS_TOKEN_ID, 100.0),), "min_tokens": 6, "stop_token_ids": (9,)}
    driver = Driver(load(tmp_path))
    driver.submit(request("r", prompt(12, 1), 20, Sampling(**GREEDY, **wanted), ignore_eos=False))
    driver.run()
    answer = driver.answers["r"]
    assert answer[-1] == EOS_TOKEN_ID
    assert len(answer) == 7
    assert 9 not in answer


def test_a_repetition_penalty_is_that_of_transformers(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    driver = Driver(load(tmp_path))
    sampling = Sampling(**GREEDY, repetition_penalty=1.7)
    driver.submit(request("r", prompt(20, 3), 24, sampling))
    driver.run()
    whole = model.generate(
        torch.tensor([prompt(20, 3)]),
        attention_mask=torch.ones(1, 20, dtype=torch.long),
        max_new_tokens=24,
        min_new_tokens=24,
        do_sample=False,
        repetition_penalty=1.7,
    )
    expected = whole[0, 20:].tolist()
    if EOS_TOKEN_ID not in driver.answers["r"]:  # transformers bans it by min_new_tokens
        assert driver.answers["r"] == expected


def text_of(tokens: list[int]) -> str:
    from tokenizers import Tokenizer

    return str(Tokenizer.from_file(str(TINY / "tokenizer.json")).decode(tokens))


@pytest.mark.parametrize("seed", range(4))
def test_a_grammar_makes_valid_json_beside_free_requests(seed: int) -> None:
    engine = load(TINY, num_blocks=400)
    driver = Driver(engine)
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA, overrides=COMPACT)
    for name, text in (("free", ""), ("json", grammar), ("other", "")):
        sampling = Sampling(temperature=1.5, seed=seed, grammar=text)
        driver.submit(request(name, range(40, 60), 120, sampling, ignore_eos=False))
    driver.run()
    answer = json.loads(text_of(driver.answers["json"]))
    assert answer["name"] in ("ann", "bob")
    assert answer["age"] <= 99
    assert set(answer) == {"name", "age"}
    plain = Driver(engine)
    plain.submit(request("free", range(40, 60), 120, Sampling(temperature=1.5, seed=seed), False))
    assert plain.run()["free"] == driver.answers["free"], "a neighbour's grammar changes nothing"


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_an_answer_that_moves_goes_on_in_its_grammar(cut: int) -> None:
    engine = load(TINY, num_blocks=400)
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA, overrides=COMPACT)
    sampling = Sampling(temperature=1.2, seed=5, grammar=grammar)
    whole = Driver(engine)
    whole.submit(request("whole", range(40, 60), 120, sampling, ignore_eos=False))
    tokens = whole.run()["whole"]
    rest = Driver(engine)
    begun = (*range(40, 60), *tokens[:cut])
    rest.submit(EngineRequest("rest", begun, 100, sampling, False, num_resumed=cut))
    assert rest.run()["rest"] == tokens[cut:]


def test_a_grammar_with_too_many_states_ends_its_own_request() -> None:
    engine = load(TINY, num_blocks=400)
    engine.add(request("good", range(40, 60), 8))
    grammar = LLMatcher.grammar_from_regex("x(a{1000}){1000}")  # all is well until the second token
    engine.add(request("bad", range(40, 60), 8, Sampling(**GREEDY, grammar=grammar)))
    blocks = {name: list(range(first, first + 10)) for name, first in (("good", 0), ("bad", 10))}
    chunks = [PlanItem(name, 0, 20, blocks[name]) for name in blocks]
    assert set(engine.step(plan_of(Phase.PREFILL, chunks))) == set(blocks)
    decodes = [PlanItem(name, 20, 1, blocks[name]) for name in blocks]
    with pytest.raises(UnsupportedRequest) as caught:
        engine.step(plan_of(Phase.DECODE, decodes))
    assert caught.value.request_ids == ("bad",)
    engine.remove("bad")
    assert set(engine.step(plan_of(Phase.DECODE, decodes[:1]))) == {"good"}


def test_a_grammar_that_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    engine = load(TINY)
    with pytest.raises(UnsupportedRequest, match="nonsense") as caught:
        engine.add(request("r", (5,), 4, Sampling(grammar='start: "a" | nonsense')))
    assert caught.value.param == "grammar"
    engine.add(request("r", (5,), 4))  # the id is free again
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(TINY / name, tmp_path)
    without = load(tmp_path)
    with pytest.raises(UnsupportedRequest, match=r"tokenizer\.json"):
        without.add(request("r", (5,), 4, Sampling(grammar='start: "a"')))
