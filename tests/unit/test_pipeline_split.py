"""Which layers and cores the stages of a pipeline get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rondo.errors import ConfigError
from rondo_worker.engines.hf_config import ModelConfig, read_config
from rondo_worker.engines.pipeline.split import parse_stage_cores, split_layers
from tests.support.models import save_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, "llama")
    return read_config(folder)


def lengths(config: ModelConfig, num_layers: int, num_stages: int, vocab_size: int) -> list[int]:
    sized = replace(config, num_layers=num_layers, vocab_size=vocab_size)
    parts = split_layers(sized, num_stages)
    assert [layer for part in parts for layer in part] == list(range(num_layers))
    return [len(part) for part in parts]


def test_layers_are_shared_evenly_where_the_head_is_small(config: ModelConfig) -> None:
    assert lengths(config, 8, 1, 10) == [8]
    assert lengths(config, 8, 2, 10) == [4, 4]
    assert lengths(config, 9, 4, 10) == [3, 2, 2, 2]
    assert lengths(config, 3, 3, 10) == [1, 1, 1]


def test_the_last_stage_gets_fewer_layers_for_a_large_head(config: ModelConfig) -> None:
    # A layer has 18,432 weights: 4 heads of queries, 2 of keys and of values, and the MLP.
    layer = 2 * 48 * 6 * 12 + 3 * 48 * 80
    two_layers = 2 * layer // 48
    assert lengths(config, 10, 2, two_layers) == [6, 4]
    assert lengths(config, 10, 3, two_layers) == [4, 4, 2]
    assert lengths(config, 4, 2, 100 * two_layers) == [3, 1]


@pytest.mark.parametrize("num_stages", [0, 4])
def test_a_stage_without_layers_is_refused(config: ModelConfig, num_stages: int) -> None:
    with pytest.raises(ConfigError, match="num_stages"):
        split_layers(config, num_stages)


def test_cores_are_named_for_each_stage() -> None:
    assert parse_stage_cores("", 2) == ()
    assert parse_stage_cores("0,1", 2) == ((0,), (1,))
    assert parse_stage_cores("0-3,4-7", 2) == ((0, 1, 2, 3), (4, 5, 6, 7))
    for text in ("0", "0,1,2", "0,", "0,x", "3-1,0", "0-1-2,3"):
        with pytest.raises(ConfigError, match="stage_cores"):
            parse_stage_cores(text, 2)
