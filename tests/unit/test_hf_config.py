"""Model folders: what is read, and what a bad one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import ModelError
from rondo_worker.engines.hf_config import read_config
from rondo_worker.engines.hf_tokens import ordinary_token_ids

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "bfloat16",
}


def folder_with(folder: Path, **changes: Any) -> Path:
    """A model folder whose config.json is LLAMA with these fields; ... removes one."""
    fields = {key: value for key, value in {**LLAMA, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_a_plain_llama_is_read(tmp_path: Path) -> None:
    config = read_config(folder_with(tmp_path))
    assert (config.family, config.head_dim, config.num_kv_heads) == ("llama", 8, 2)
    assert config.windows == (None, None)
    assert config.eos_token_ids == (2,)
    assert config.special_token_ids == (1, 2)
    assert config.dtype == "bfloat16"
    assert not config.tied_embeddings


def test_generation_config_names_the_eos_tokens(tmp_path: Path) -> None:
    folder_with(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert read_config(tmp_path).eos_token_ids == (7, 8)
    (tmp_path / "generation_config.json").write_text("{}")
    assert read_config(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}},
    ],
)
def test_old_and_new_rope_spellings_are_the_same(tmp_path: Path, spelling: dict[str, Any]) -> None:
    rope = read_config(folder_with(tmp_path, **spelling)).rope
    assert (rope.kind, rope.theta, rope.factor) == ("linear", 5e5, 4.0)


def test_windows_follow_the_family(tmp_path: Path) -> None:
    mistral = {"architectures": ["MistralForCausalLM"], "sliding_window": 9}
    assert read_config(folder_with(tmp_path, **mistral)).windows == (9, 9)
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 9}
    assert read_config(folder_with(tmp_path, **qwen)).windows == (None, None)
    qwen |= {"use_sliding_window": True, "max_window_layers": 1}
    assert read_config(folder_with(tmp_path, **qwen)).windows == (None, 9)
    qwen |= {"layer_types": ["sliding_attention", "full_attention"]}
    assert read_config(folder_with(tmp_path, **qwen)).windows == (9, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["architectures", "GPT2LMHeadModel", "Qwen3For"]),
        ({"architectures": ...}, ["architectures", "None"]),
        ({"hidden_size": ...}, ["hidden_size", "positive integer"]),
        ({"num_hidden_layers": "two"}, ["num_hidden_layers", "'two'"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3 does not divide 4"]),
        ({"head_dim": 7}, ["head_dim", "even"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "supported: silu"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config", "float16"]),
        ({"torch_dtype": "int8", "dtype": ...}, ["dtype", "'int8'", "bfloat16"]),
        ({"eos_token_id": "end"}, ["eos_token_id", "'end'"]),
        ({"rms_norm_eps": "small"}, ["rms_norm_eps", "number"]),
        ({"tie_word_embeddings": 1}, ["tie_word_embeddings", "true or false"]),
        ({"rope_parameters": {"rope_type": "longrope"}}, ["rope_parameters", "longrope", "yarn"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, ["rope_scaling", "dynamic"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, ["low_freq_factor"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": -1}}, ["rope_scaling.factor", "-1"]),
        ({"rope_scaling": "yarn"}, ["rope_scaling", "object"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["linear_attention", "full_attention"],
            },
            ["layer_types", "linear_attention"],
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        read_config(folder_with(tmp_path, **changes))
    message = str(caught.value)
    assert str(tmp_path) in message
    for word in says:
        assert word in message


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: is not a folder"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="has no config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: cannot be read as JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        read_config(tmp_path)


def test_ordinary_tokens_are_readable_where_a_tokenizer_says_so(tmp_path: Path) -> None:
    config = read_config(folder_with(tmp_path, vocab_size=9))
    assert ordinary_token_ids(config) == (0, 3, 4, 5, 6, 7, 8)
    vocab = {"<s>": 1, "</s>": 2, "a": 3, "\u0120the": 4, "\u2581x": 5, "\u00e9": 6, "<0x0A>": 7}
    tokenizer = {"model": {"vocab": {**vocab, "b": 8, "far": 40}}, "added_tokens": [{"id": 8}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert ordinary_token_ids(config) == (3, 4, 5)
