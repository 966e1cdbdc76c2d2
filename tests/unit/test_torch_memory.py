"""How large the KV pool becomes: a share of what is free, or what was asked for, never more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rondo.errors import ConfigError
from rondo_worker.engines.hf_config import ModelConfig, read_config
from rondo_worker.engines.torch import kv_pool
from tests.support.models import build_model

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("model")
    build_model("llama").config.save_pretrained(folder)
    return read_config_of(folder)


def read_config_of(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    text = path.read_text()
    if "architectures" not in text:
        path.write_text(text.replace("{", '{"architectures": ["LlamaForCausalLM"],', 1))
    return read_config(folder)


def choose(config: ModelConfig, **asked: Any) -> int:
    options = {"num_blocks": None, "memory_bytes": None, **asked}
    return kv_pool.choose_num_blocks(config, 16, torch.float32, CPU, **options)


def test_a_share_of_what_is_free_is_taken_up_to_a_limit(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = kv_pool.block_bytes(config, 16, torch.float32)
    monkeypatch.setattr(kv_pool, "free_bytes", lambda device: 100 * MIB)
    assert choose(config) == 25 * MIB // size
    monkeypatch.setattr(kv_pool, "free_bytes", lambda device: 1 << 40)
    assert choose(config) == (1 << 30) // size


def test_more_than_what_is_free_is_refused(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = kv_pool.block_bytes(config, 16, torch.float32)
    monkeypatch.setattr(kv_pool, "free_bytes", lambda device: 10 * size)
    assert choose(config, num_blocks=10) == 10
    assert choose(config, memory_bytes=10 * size) == 10
    with pytest.raises(ConfigError, match="num_blocks: 11 KV blocks take .* are free"):
        choose(config, num_blocks=11)
    with pytest.raises(ConfigError, match="kv_memory_bytes: asks for .* are free"):
        choose(config, memory_bytes=10 * size + 1)


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("104857600", "4857602", 100_000_000), ("5", "9", 0), ("max", "9", None)],
)
def test_a_container_bounds_what_is_free(
    limit: str, used: str, left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbounded = kv_pool.free_bytes(CPU)
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    (tmp_path / "memory.stat").write_text("anon 3\ninactive_file 2\nactive_file 1\n")
    monkeypatch.setattr(kv_pool, "CGROUP", tmp_path)
    assert unbounded > 100_000_000
    if left is not None:
        assert kv_pool.free_bytes(CPU) == left
    else:
        assert kv_pool.free_bytes(CPU) > 100_000_000


def test_the_pool_is_as_large_as_it_says(config: ModelConfig) -> None:
    pool = kv_pool.KvPool(config, 7, 16, CPU, torch.bfloat16)
    taken = sum(layer.numel() * layer.itemsize for layer in pool.slots)
    assert pool.num_bytes == taken == 7 * kv_pool.block_bytes(config, 16, torch.bfloat16)
