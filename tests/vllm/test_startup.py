"""What is refused when vLLM is brought up, and how that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import ConfigError, ModelError
from rondo_worker.engines.vllm import VllmEngine, startup
from tests.support.models import build_model


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "SUPPORTED_VERSION", "9.9.9")
    with pytest.raises(ConfigError, match=r"vllm 0\.32\.0 is installed, vllm 9\.9\.9 is supported"):
        startup.find_vllm()


def test_a_name_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(startup.NAMES, "NoSuchThing", "vllm.sampling_params")
    with pytest.raises(ConfigError, match="NoSuchThing"):
        startup.find_vllm()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("req_ids no_such_field", r"CachedRequestData has no \['no_such_field'\]"),
        ("req_ids", r"needs \['all_token_ids', .*'resumed_req_ids'\]"),
    ],
)
def test_a_field_that_is_gone_or_new_is_refused(
    monkeypatch: pytest.MonkeyPatch, fields: str, says: str
) -> None:
    monkeypatch.setitem(startup.FIELDS, "CachedRequestData", fields)
    with pytest.raises(ConfigError, match=says):
        startup.find_vllm()


@pytest.mark.parametrize(
    ("options", "setting", "says"),
    [
        ({"device": "cuda"}, "device", "'cuda', but this vllm is built for cpu"),
        ({"block_size": 16}, "block_size", "multiples of 32"),
        ({"pipeline_parallel": 2}, "pipeline_parallel", "fails with it on a CPU"),
        ({"num_threads": 0}, "num_threads", "at least 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    model_folder: Path, options: dict[str, Any], setting: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        VllmEngine.load(model_folder, **options)
    assert caught.value.setting == setting


def test_a_method_that_is_gone_is_refused(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_core = startup.find_vllm().EngineCore
    monkeypatch.delattr(engine_core, "_initialize_kv_caches")
    with pytest.raises(ConfigError, match=r"0\.32\.0 is supported: .*_initialize_kv_caches"):
        VllmEngine.load(model_folder, block_size=32, num_blocks=4)


def test_a_model_that_vllm_does_not_know_is_named(model_folder: Path, tmp_path: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    config |= {"architectures": ["NobodyForCausalLM"], "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="NobodyForCausalLM"):
        VllmEngine.load(tmp_path)


def test_heads_that_the_kernels_do_not_take_are_named(tmp_path: Path) -> None:
    build_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="head"):
        VllmEngine.load(tmp_path, num_blocks=4)


def test_more_length_than_the_pool_holds_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="max_model_len|maximum model length|max seq len"):
        VllmEngine.load(model_folder, block_size=32, num_blocks=2, max_model_len=400)
