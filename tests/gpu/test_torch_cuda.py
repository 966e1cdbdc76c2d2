"""The torch engine on a CUDA device: the same logits and the same seeded tokens as on a CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from rondo.types import Sampling
from rondo.wire.codec import unpack_floats
from rondo_worker.engines.base import EngineRequest
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.engines.torch.graphs import BUCKETS
from tests.support.drive import Driver, answers, request
from tests.support.models import CONFIGS, VOCAB_SIZE, save_model
from tests.support.reference import check_against_reference, prompt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    # TensorFloat-32 has ten bits of mantissa, which no tolerance below allows for.
    torch.backends.cuda.matmul.allow_tf32 = False


def load_float32(folder: Path, device: str) -> TorchEngine:
    return TorchEngine.load(folder, device=device, dtype="float32", block_size=4, num_blocks=512)


def mixed_requests(count: int, answer: int, sampling: Sampling) -> list[EngineRequest]:
    return [request(f"r{i}", prompt(5 + 7 * i % 80, i), answer, sampling) for i in range(count)]


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_logits_are_those_of_transformers_on_a_cpu(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(
        tmp_path, device="cuda", dtype="float32", block_size=4, num_blocks=512
    )
    requests = mixed_requests(5, 48, Sampling(temperature=0.0))
    check_against_reference(engine, model, requests, max_prefill_tokens=16)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-window"])
def test_embeddings_are_those_of_a_cpu_also_beside_decodes(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, name)
    embed = Sampling(temperature=0.0, embed=True)
    found: dict[str, dict[str, list[float]]] = {"cpu": {}, "cuda": {}}
    for device, vectors in found.items():
        driver = Driver(load_float32(tmp_path, device), max_prefill_tokens=16)
        driver.submit(*mixed_requests(4, 24, Sampling(temperature=0.0)))
        while driver.scheduler.decode_steps < 3:
            driver.step()
            driver.engine.take_logprobs()
        texts = [request(f"e{i}", prompt(9 + 20 * i, 50 + i), 1, embed) for i in range(4)]
        driver.submit(*texts)
        while driver.step():
            for request_id, packed in driver.engine.take_logprobs().embeddings.items():
                vectors[request_id] = unpack_floats(packed)
    assert len(found["cuda"]) == 4
    for request_id, vector in found["cpu"].items():
        assert found["cuda"][request_id] == pytest.approx(vector, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-window"])
def test_bfloat16_is_the_default_and_close(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    engine = TorchEngine.load(tmp_path, block_size=16, num_blocks=64)
    driver = Driver(engine)
    driver.submit(request("only", prompt(40, 1), 8))
    driver.step()
    logits = engine.last_logits["only"]
    assert logits.is_cuda
    assert logits.dtype == torch.bfloat16
    with torch.no_grad():
        expected = model(torch.tensor([prompt(40, 1)])).logits[0, -1]
    assert (logits.float().cpu() - expected).norm() / expected.norm() < 0.03


def test_a_seed_gives_the_same_tokens_with_other_batch_mates(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    engine = TorchEngine.load(
        tmp_path, device="cuda", dtype="float32", block_size=4, num_blocks=512
    )
    on_cpu = load_float32(tmp_path, "cpu")
    requests = mixed_requests(9, 40, Sampling(temperature=0.9, top_p=0.9, top_k=50, seed=5))
    together = answers(engine, requests)
    assert answers(engine, requests) == together
    assert answers(engine, [requests[4]])["r4"] == together["r4"]
    assert answers(on_cpu, requests) == together


def test_the_pool_takes_a_share_of_free_memory(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    free_bytes, _ = torch.cuda.mem_get_info()
    engine = TorchEngine.load(tmp_path, device="cuda", block_size=256)
    taken_bytes = engine.spec.num_blocks * 256 * 288  # 3 layers, 2 x 2 heads of 12, bfloat16
    assert 0.7 * free_bytes < taken_bytes < 0.9 * free_bytes
    assert engine.spec.vocab_size == VOCAB_SIZE
    engine.close()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3"])
def test_recorded_decode_steps_give_what_launched_ones_do(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, name)
    sizes = {"device": "cuda", "dtype": "float32", "block_size": 16, "num_blocks": 512}
    launched = TorchEngine.load(tmp_path, graphs=False, **sizes)  # type: ignore[arg-type]
    recorded = TorchEngine.load(tmp_path, **sizes)  # type: ignore[arg-type]
    assert launched._graphs is None
    assert recorded._graphs is not None
    assert set(recorded._graphs._graphs) == set(BUCKETS)
    requests = mixed_requests(21, 40, Sampling(temperature=0.0))
    assert answers(recorded, requests) == answers(launched, requests)
    spare = [layer[512] for layer in recorded._pool.blocks]  # type: ignore[union-attr]
    assert any(block.any() for block in spare), "rows that pad a step wrote here"


def test_a_greedy_decode_step_waits_for_the_device_once(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    engine = TorchEngine.load(tmp_path, device="cuda", block_size=16, num_blocks=512)
    driver = Driver(engine)
    driver.submit(*mixed_requests(5, 30, Sampling(temperature=0.0)))
    for _ in range(5):
        driver.step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            driver.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    assert len(waits) <= 1, [str(w.message) for w in waits]
