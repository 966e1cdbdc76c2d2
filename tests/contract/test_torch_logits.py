"""The torch engine against transformers: logits of every step, and greedy answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rondo_worker.engines.torch import TorchEngine
from tests.support.drive import Driver, request
from tests.support.models import CONFIGS, EOS_TOKEN_ID, save_model
from tests.support.reference import check_against_reference, prompt, reference_logits

ANSWER = 64


@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_each_decode_step_give_the_logits_of_transformers(
    name: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(tmp_path, device="cpu", dtype="float32", block_size=8, num_blocks=64)
    assert engine.spec.eos_token_ids == (EOS_TOKEN_ID,)
    check_against_reference(engine, model, [request("only", prompt(37, 1), ANSWER)])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 3, 17])
def test_greedy_answers_are_those_of_transformers_with_many_in_flight(
    name: str, count: int, tmp_path: Path
) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(
        tmp_path, device="cpu", dtype="float32", block_size=4, num_blocks=1024
    )
    lengths = random.Random(count).choices(range(1, 90), k=count)
    requests = [request(f"r{i}", prompt(n, i), ANSWER) for i, n in enumerate(lengths)]
    driver = check_against_reference(engine, model, requests, max_prefill_tokens=16)
    assert driver.scheduler.ledger.num_free == 1024


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2-window", "qwen3"])
def test_preempted_requests_are_recomputed_to_the_same_answer(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(tmp_path, device="cpu", dtype="float32", block_size=4, num_blocks=48)
    requests = [request(f"r{i}", prompt(20 + 3 * i, i), ANSWER) for i in range(6)]
    driver = check_against_reference(engine, model, requests, max_prefill_tokens=16)
    assert driver.scheduler.num_preempted > 0


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama", sharded=True)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    engine = TorchEngine.load(tmp_path, device="cpu", dtype="float32", num_blocks=32)
    check_against_reference(engine, model, [request("only", prompt(20, 1), 8)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_can_be_computed_in_float32(dtype: str, tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    engine = TorchEngine.load(tmp_path, device="cpu", dtype="float32", num_blocks=32)
    check_against_reference(engine, model, [request("only", prompt(20, 1), 8)])


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-window"])
def test_half_precision_computation_stays_close(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(tmp_path, device="cpu", dtype="bfloat16", num_blocks=32)
    driver = Driver(engine)
    driver.submit(request("only", prompt(40, 1), 8))
    driver.step()
    expected = reference_logits(model, list(prompt(40, 1)))[-1]
    error = (engine.last_logits["only"].float() - expected).norm() / expected.norm()
    assert error < 2e-2
