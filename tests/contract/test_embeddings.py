"""Embeddings of prompts: the torch engine's against transformers', and who refuses them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from rondo.policy.plan import PlanItem, plan_of
from rondo.types import Batching, BatchKind, FinishReason, Phase, Sampling
from rondo.wire.codec import unpack_floats
from rondo_worker.engines.base import Engine, EngineRequest, UnsupportedRequest
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.retry import run_step
from tests.support.drive import Driver, request
from tests.support.models import save_model
from tests.support.reference import prompt

EMBED = Sampling(temperature=0.0, embed=True)
TOLERANCE = 1e-4


def load(folder: Path, **options: Any) -> TorchEngine:
    sizes: dict[str, Any] = {"block_size": 4, "num_blocks": 200, **options}
    return TorchEngine.load(folder, device="cpu", dtype="float32", **sizes)


def embedding(request_id: str, tokens: Iterable[int]) -> EngineRequest:
    return request(request_id, tokens, 1, EMBED)


def run(driver: Driver) -> dict[str, bytes]:
    """Runs to the end; the embeddings by request."""
    found: dict[str, bytes] = {}

    def take(_plan: object, _tokens: object) -> None:
        brought = driver.engine.take_logprobs()
        assert not found.keys() & brought.embeddings.keys()
        found.update(brought.embeddings)

    driver.on_step = take
    driver.run()
    return found


@torch.no_grad()
def expected(model: PreTrainedModel, tokens: Iterable[int]) -> torch.Tensor:
    """The last token's final hidden state by transformers, of length 1."""
    states: torch.Tensor = model.model(torch.tensor([list(tokens)])).last_hidden_state
    return torch.nn.functional.normalize(states[0, -1], dim=-1)


def check(model: PreTrainedModel, packed: bytes, tokens: Iterable[int]) -> None:
    vector = torch.tensor(unpack_floats(packed))
    torch.testing.assert_close(vector, expected(model, tokens), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2", "qwen3"])
@pytest.mark.parametrize("max_prefill_tokens", [4096, 7])
def test_they_are_the_normalised_last_states_whole_or_in_chunks(
    tmp_path: Path, name: str, max_prefill_tokens: int, native: bool
) -> None:
    model = save_model(tmp_path, name)
    driver = Driver(load(tmp_path, native=native), max_prefill_tokens=max_prefill_tokens)
    prompts = {f"r{i}": prompt(length, i) for i, length in enumerate((1, 4, 23, 40, 8))}
    driver.submit(*[embedding(name, tokens) for name, tokens in prompts.items()])
    found = run(driver)
    assert found.keys() == prompts.keys()
    for request_id, tokens in prompts.items():
        check(model, found[request_id], tokens)
    assert set(driver.finished.values()) == {FinishReason.LENGTH}
    assert driver.scheduler.decode_steps == 0, "they end with their prefills"
    assert driver.scheduler.ledger.num_free == 200


def test_a_prompt_whose_kv_is_all_there_has_its_vector(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    driver = Driver(load(tmp_path))
    same = prompt(24, 3)  # six whole blocks
    driver.submit(request("before", same, 8))
    driver.run()
    driver.submit(embedding("again", same), embedding("longer", (*same, 9)))
    found = run(driver)
    assert driver.scheduler.board.pool.shared_tokens == 20 + 24
    check(model, found["again"], same)
    check(model, found["longer"], (*same, 9))


@pytest.mark.parametrize("kind", [BatchKind.CHUNKED, BatchKind.FUSED])
def test_beside_decodes_and_scored_prompts(tmp_path: Path, kind: BatchKind) -> None:
    model = save_model(tmp_path, "llama")
    driver = Driver(load(tmp_path), max_prefill_tokens=16)
    driver.submit(*[request(f"d{i}", prompt(10 + i, i), 30) for i in range(3)])
    while driver.scheduler.decode_steps < 3:
        driver.step()
    scored = Sampling(temperature=0.0, prompt_logprobs=0, logprobs=0)
    texts = {"e0": prompt(30, 20), "e1": prompt(5, 21)}
    driver.submit(embedding("e0", texts["e0"]), request("s", prompt(6, 22), 2, scored))
    driver.submit(embedding("e1", texts["e1"]))
    driver.scheduler.grant(2, [], 1e9, 0.0, Batching(kind=kind, tokens=16))
    phases = set()
    found: dict[str, bytes] = {}
    while done := driver.step():
        phases.add(done[0].phase)
        found |= driver.engine.take_logprobs().embeddings
    assert Phase.FUSED in phases
    assert found.keys() == texts.keys()
    for request_id, tokens in texts.items():
        check(model, found[request_id], tokens)
    alone = Driver(driver.engine)
    alone.submit(*[request(f"d{i}", prompt(10 + i, i), 30) for i in range(3)])
    alone.run()
    for name, answer in alone.answers.items():
        assert driver.answers[name] == answer, "embeddings beside it change no answer"


def test_a_step_that_is_tried_again_in_parts_brings_them(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    engine = load(tmp_path)
    texts = {name: prompt(6, number) for number, name in enumerate("abcd")}
    for name, tokens in texts.items():
        engine.add(embedding(name, tokens))
    blocks = {name: [2 * number, 2 * number + 1] for number, name in enumerate(texts)}
    blocks["c"] = [0, 999]  # no such block: torch fails on it, for the whole step
    plan = plan_of(Phase.PREFILL, [PlanItem(name, 0, 6, blocks[name]) for name in texts])
    result = run_step(engine, plan)
    assert list(result.problems) == ["c"]
    assert result.logprobs.embeddings.keys() == {"a", "b", "d"}
    for name, packed in result.logprobs.embeddings.items():
        check(model, packed, texts[name])


def test_engines_without_embeddings_refuse(engine: Engine, kind: str) -> None:
    if kind == "torch":
        driver = Driver(engine)
        driver.submit(embedding("r", (5, 6, 7)))
        assert len(unpack_floats(run(driver)["r"])) == 48
        return
    with pytest.raises(UnsupportedRequest, match="no embeddings") as caught:
        engine.add(embedding("r", (5, 6, 7)))
    assert caught.value.param == "embed"
    engine.add(request("r", (5, 6, 7)))  # the id is free
    engine.remove("r")
