"""Rotary embedding settings of a Hugging Face config, old and new spelling.

Transformers 5 writes `rope_parameters`; older folders have `rope_theta` beside `rope_scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROPE_TYPES = ("default", "linear", "llama3", "yarn")

#: Fields without which a type has no meaning.
_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How positions rotate queries and keys.

    `original_positions` is the context length of pretraining; `beta_*` and `truncate` bound YaRN's
    ramp; `*_freq_factor` bound Llama 3's. `attention_factor` scales cosines and sines.
    """

    kind: str
    theta: float
    factor: float
    original_positions: int
    low_freq_factor: float
    high_freq_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float


def read_rope(fields: dict[str, Any], error: Callable[[str, str], Exception]) -> RopeConfig:
    """The rope settings among a config's fields; `error(field, problem)` builds what is raised."""
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    rope = fields.get(section) or {}
    if not isinstance(rope, dict):
        raise error(section, f"is {rope!r}; expected an object")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise error(section, f"type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", fields.get("partial_rotary_factor") or 1.0) != 1.0:
        raise error(f"{section}.partial_rotary_factor", "only 1.0 is supported")

    def number(name: str, default: float | None = None) -> float:
        value = rope.get(name)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise error(f"{section}.{name}", f"is {value!r}; expected a positive number")
        return float(value)

    for name in _REQUIRED[kind]:
        number(name)
    top_level = fields.get("original_max_position_embeddings")
    original = top_level or fields.get("max_position_embeddings")
    return RopeConfig(
        kind=kind,
        theta=number("rope_theta", fields.get("rope_theta") or 10_000.0),
        factor=number("factor", 1.0),
        original_positions=int(number("original_max_position_embeddings", original)),
        low_freq_factor=number("low_freq_factor", 1.0),
        high_freq_factor=number("high_freq_factor", 4.0),
        beta_fast=number("beta_fast", 32.0),
        beta_slow=number("beta_slow", 1.0),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=_attention_factor(rope) if kind == "yarn" else 1.0,
    )


def _attention_factor(rope: dict[str, Any]) -> float:
    """YaRN's temperature, section 3.4 of arXiv 2309.00071, as transformers computes it."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = float(rope["factor"])
    mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return magnitude(float(mscale)) / magnitude(float(mscale_all_dim))
    return magnitude(1.0)
