"""The model that engines are compared with: a Llama with random weights, in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama without grouped heads and with an output matrix of its own. By default 134 M weights.

    Heads have `hidden / heads` dimensions, of which vLLM's kernels for the CPU take a multiple of
    32. Vocabulary and positions are counts.
    """

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    inner: int = 2048
    vocabulary: int = 32_000
    positions: int = 4096

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Sizes of all weights, by their names in a checkpoint."""
        square, up = (self.hidden, self.hidden), (self.inner, self.hidden)
        sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocabulary, self.hidden),
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                sizes[f"{prefix}.{norm}.weight"] = (self.hidden,)
            for name in "qkvo":
                sizes[f"{prefix}.self_attn.{name}_proj.weight"] = square
            for name, size in (("gate", up), ("up", up), ("down", up[::-1])):
                sizes[f"{prefix}.mlp.{name}_proj.weight"] = size
        return sizes

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(int(np.prod(size)) for size in self.tensors().values())

    def write(self, folder: Path) -> None:
        """Writes config.json and model.safetensors, in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        dice = np.random.default_rng(0)
        weights = {
            name: np.ones(size, np.float32)
            if len(size) == 1
            else dice.standard_normal(size, np.float32) * np.float32(0.02)
            for name, size in self.tensors().items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self._config(), indent=2))

    def _config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.positions,
            "vocab_size": self.vocabulary,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
