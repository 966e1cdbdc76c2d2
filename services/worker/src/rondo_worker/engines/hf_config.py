"""Reads a Hugging Face model folder's configuration, and nothing of its weights.

Supported: dense decoder-only Llama, Mistral, Qwen2 and Qwen3. Whatever would change the result and
is not supported is refused here, by name, before a weight is read. No torch in this module: the
emulated engine uses it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rondo.errors import ModelError
from rondo_worker.engines.hf_rope import RopeConfig, read_rope

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model, the same for all supported families.

    `windows` has one entry a layer: how many tokens back a token sees, itself included, or None
    for all of them. `qk_norm`: queries and keys are normalised per head (Qwen3).
    """

    folder: Path
    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    max_positions: int
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    eos_token_ids: tuple[int, ...]
    special_token_ids: tuple[int, ...]
    dtype: str

    @property
    def num_parameters(self) -> int:
        """Weights of all matrices; norms and biases are left out."""
        attention = 2 * self.hidden_size * (self.num_heads + self.num_kv_heads) * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        vocabulary = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * (attention + mlp) + vocabulary


class ConfigFile:
    """A JSON object from a model folder, with typed access that names the field when it fails."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self.path = path
        self.fields = fields

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Reads the file.

        Raises:
            ModelError: it is missing or is not a JSON object.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(str(path.parent), f"has no {path.name}") from None
        except (OSError, ValueError) as error:
            raise ModelError(str(path), f"cannot be read as JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ModelError(str(path), "is not a JSON object")
        return cls(path, fields)

    def error(self, field: str, problem: str) -> ModelError:
        """The error for a field of this file."""
        return ModelError(f"{self.path}: {field}", problem)

    def get(self, field: str) -> Any:
        """A field as it is; None when absent."""
        return self.fields.get(field)

    def positive(self, field: str, default: int | None = None) -> int:
        """A field that must be a positive integer; `default` when absent or null."""
        value = self.get(field)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(field, f"is {value!r}; expected a positive integer")
        return value

    def number(self, field: str, default: float) -> float:
        """A field that must be a number; `default` when absent or null."""
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(field, f"is {value!r}; expected a number")
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        """A field that must be true or false; `default` when absent or null."""
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, f"is {value!r}; expected true or false")
        return value

    def token_ids(self, field: str) -> tuple[int, ...]:
        """A field that may be absent, a token id or a list of token ids."""
        value = self.get(field)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in ids):
            raise self.error(field, f"is {value!r}; expected a token id or a list of them")
        return tuple(ids)


def read_config(path: str | Path) -> ModelConfig:
    """Reads config.json and generation_config.json of a model folder.

    Raises:
        ModelError: the folder or a field is missing, or the model is not supported.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(str(folder), "is not a folder")
    config = ConfigFile.read(folder / "config.json")
    family = _family(config)
    _refuse_unsupported(config)
    num_heads, num_kv_heads, head_dim = _heads(config, family)
    num_layers = config.positive("num_hidden_layers")
    attention_bias = config.flag("attention_bias") and family in ("llama", "qwen3")
    eos = _eos_token_ids(config)
    specials = {*eos, *config.token_ids("bos_token_id"), *config.token_ids("pad_token_id")}
    return ModelConfig(
        folder=folder,
        family=family,
        vocab_size=config.positive("vocab_size"),
        hidden_size=config.positive("hidden_size"),
        intermediate_size=config.positive("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=config.number("rms_norm_eps", 1e-6),
        max_positions=config.positive("max_position_embeddings"),
        rope=read_rope(config.fields, config.error),
        windows=_windows(config, family, num_layers),
        qkv_bias=attention_bias or family == "qwen2",
        output_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias") and family == "llama",
        qk_norm=family == "qwen3",
        tied_embeddings=config.flag("tie_word_embeddings"),
        eos_token_ids=eos,
        special_token_ids=tuple(sorted(specials)),
        dtype=_dtype(config),
    )


def _family(config: ConfigFile) -> str:
    names = config.get("architectures")
    known = ", ".join(ARCHITECTURES)
    if not isinstance(names, list) or not names:
        raise config.error("architectures", f"is {names!r}; supported: {known}")
    if names[0] not in ARCHITECTURES:
        raise config.error("architectures", f"{names[0]} is not supported; supported: {known}")
    return ARCHITECTURES[names[0]]


def _heads(config: ConfigFile, family: str) -> tuple[int, int, int]:
    """Query heads, key heads and their dimension."""
    num_heads, hidden_size = config.positive("num_attention_heads"), config.positive("hidden_size")
    num_kv_heads = config.positive("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise config.error("num_key_value_heads", f"{num_kv_heads} does not divide {num_heads}")
    head_dim = config.positive("head_dim", 128 if family == "qwen3" else hidden_size // num_heads)
    if head_dim % 2:
        raise config.error("head_dim", f"is {head_dim}; rotary embeddings need an even number")
    return num_heads, num_kv_heads, head_dim


def _refuse_unsupported(config: ConfigFile) -> None:
    if config.get("quantization_config") is not None:
        raise config.error(
            "quantization_config",
            f"quantised weights are not supported; supported: {', '.join(DTYPES)}",
        )
    activation = config.get("hidden_act") or "silu"
    if activation != "silu":
        raise config.error("hidden_act", f"{activation!r} is not supported; supported: silu")


def _eos_token_ids(config: ConfigFile) -> tuple[int, ...]:
    """What generation_config.json says wins: chat models add their end-of-turn token there."""
    generation = config.path.with_name("generation_config.json")
    ids = ConfigFile.read(generation).token_ids("eos_token_id") if generation.is_file() else ()
    return ids or config.token_ids("eos_token_id")


def _windows(config: ConfigFile, family: str, num_layers: int) -> tuple[int | None, ...]:
    if family == "llama" or config.get("sliding_window") is None:
        return (None,) * num_layers
    window = config.positive("sliding_window")
    if family == "mistral":
        return (window,) * num_layers
    if not config.flag("use_sliding_window"):
        return (None,) * num_layers
    first = config.get("max_window_layers")
    first = 28 if first is None else first
    types = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)
    ]
    kinds = {"sliding_attention": window, "full_attention": None}
    unknown = [kind for kind in types if kind not in kinds]
    if unknown:
        raise config.error("layer_types", f"{unknown[0]!r} is not supported; supported: {[*kinds]}")
    if len(types) != num_layers:
        raise config.error("layer_types", f"has {len(types)} entries for {num_layers} layers")
    return tuple(kinds[kind] for kind in types)


def _dtype(config: ConfigFile) -> str:
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise config.error("dtype", f"{name!r} is not supported; supported: {', '.join(DTYPES)}")
    return str(name)
