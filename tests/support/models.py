"""Tiny random models in Hugging Face layout, one for each supported family and rope type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

# Matrices this small gain nothing from a second thread, and on busy cores threads wait for each
# other for whole time slices.
torch.set_num_threads(1)

VOCAB_SIZE = 160
MAX_POSITIONS = 512
EOS_TOKEN_ID = 2

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": EOS_TOKEN_ID,
    "pad_token_id": 0,
    # Large weights make the logits differ clearly between tokens, so errors show.
    "initializer_range": 0.15,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
_YARN_OPTIONS = {
    **_YARN,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
    "truncate": False,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}

CONFIGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama-tied-mqa": (LlamaConfig, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama-mha-biases": (
        LlamaConfig,
        {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "llama-llama3": (LlamaConfig, {"rope_parameters": _LLAMA3}),
    "llama-linear": (LlamaConfig, {"rope_parameters": _LINEAR}),
    "llama-yarn": (LlamaConfig, {"rope_parameters": _YARN}),
    "llama-yarn-options": (LlamaConfig, {"rope_parameters": _YARN_OPTIONS}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral-window": (MistralConfig, {"sliding_window": 21}),
    "qwen2": (Qwen2Config, {}),
    "qwen2-window": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {"head_dim": 20, "tie_word_embeddings": True}),
}


def build_model(name: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A model of `CONFIGS` with random weights, biases and norms included, in float32."""
    config_type, fields = CONFIGS[name]
    config = config_type(**{**_SHAPE, **fields, **overrides})
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            center = 1.0 if "norm" in key else 0.0
            weight.copy_(center + config.initializer_range * noise)
    return model.eval()


def save_model(
    folder: Path, name: str, *, seed: int = 0, sharded: bool = False, dtype: str = "float32"
) -> PreTrainedModel:
    """Writes a model of `CONFIGS` to a folder and returns it as written."""
    model = build_model(name, seed=seed).to(getattr(torch, dtype))
    model.config.dtype = dtype
    model.save_pretrained(folder, max_shard_size="60KB" if sharded else "1GB")
    return model
