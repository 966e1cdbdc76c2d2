"""What the torch engine says of a folder or an argument that it cannot use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rondo.errors import ConfigError, EngineError, ModelError
from rondo_worker.engines.torch import TorchEngine
from tests.support.drive import Driver, request
from tests.support.models import save_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, "llama")
    return tmp_path


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Changes the tensors of model.safetensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("model.norm.weight"), "has no tensor model.norm.weight"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(7)}),
            r"model.norm.weight has shape \[7\], config.json asks for \[48\]",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(160, 48, dtype=torch.int8)}),
            "lm_head.weight is torch.int8; supported: float32, bfloat16, float16",
        ),
    ],
)
def test_a_wrong_tensor_is_named(folder: Path, change: Callable[[Tensors], Any], says: str) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError, match=says) as caught:
        TorchEngine.load(folder, device="cpu", num_blocks=4)
    assert str(folder) in str(caught.value)


def test_missing_and_broken_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read as safetensors"):
        TorchEngine.load(folder, device="cpu")
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which is never opened")
    with pytest.raises(ModelError, match="has neither model.safetensors nor .*safetensors only"):
        TorchEngine.load(folder, device="cpu")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", sharded=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = index["weight_map"]["model.norm.weight"]
    (tmp_path / shard).unlink()
    with pytest.raises(ModelError, match=f"has no {shard}, though"):
        TorchEngine.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "abacus"}, "device: 'abacus' is none of"),
        ({"device": "meta"}, "device: 'meta' is none of"),
        ({"dtype": "int8"}, "dtype: 'int8' is none of"),
        ({"block_size": 0}, "block_size: is 0"),
        ({"num_blocks": 0}, "num_blocks: is 0"),
        ({"kv_memory_bytes": 100}, "kv_memory_bytes: 100 bytes hold no KV block of"),
        ({"max_model_len": 513}, "max_model_len: is 513; .* takes 2 to 512"),
        ({"num_threads": 0}, "num_threads: is 0"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(
    folder: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        TorchEngine.load(folder, **{"device": "cpu", **options})


def test_cuda_is_refused_where_there_is_none(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        TorchEngine.load(folder, device="cuda")


def test_the_pool_follows_from_the_memory_it_may_take(folder: Path) -> None:
    # 3 layers, keys and values, 2 heads of 12 dimensions, float32: 576 bytes a token.
    engine = TorchEngine.load(
        folder, device="cpu", dtype="float32", block_size=8, kv_memory_bytes=100_000
    )
    assert engine.spec.num_blocks == 100_000 // (576 * 8)
    engine = TorchEngine.load(folder, device="cpu", block_size=512)
    assert 1 <= engine.spec.num_blocks * 512 * 576 <= 1 << 30


def test_a_failure_in_torch_names_the_requests(folder: Path) -> None:
    engine = TorchEngine.load(folder, device="cpu", num_blocks=8)
    driver = Driver(engine)
    driver.submit(request("a", (3, 4)), request("b", (5, 6)))
    plan = driver.scheduler.plan(0.0)
    assert plan is not None
    for item in plan.items:
        item.blocks[0] = 10**6  # type: ignore[index]
    with pytest.raises(EngineError, match="torch: ") as caught:
        engine.step(plan)
    assert caught.value.request_ids == ("a", "b")
