"""Writes the built-in latency profiles from the fitted coefficients of public measurements.

Run from the repository root:

    .venv/bin/python tools/perf/derive_profiles.py ../shared/data/profiles/fitted_coefficients.json

Where a shape was not measured, its neighbour's coefficients are scaled by what bounds them: floors
and the constant part of decode by the bytes of the weights, the lines by the parameters (floating
point operations a token), attention by layers x heads, the KV term by KV bytes a token.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path("shared/src/rondo/perf/profiles")
#: Engine overhead of a step: what the kernels' times lack against measured engines (2.8 to 7 ms
#: for scheduling, inputs, sampling and outputs in Vidur's overhead tables).
CPU_MS = 4.0
MEMORY_BYTES = {"l20": 48_000_000_000, "a100": 80_000_000_000, "h100": 80_000_000_000}


@dataclass(frozen=True)
class Model:
    """Sizes; `attention` is layers x query heads x head size."""

    params: float
    attention: int
    kv_bytes_per_token: int


MODELS = {
    "llama-30b": Model(32.5e9, 60 * 52 * 128, 60 * 6656 * 2 * 2),
    "codellama-34b": Model(33.7e9, 48 * 64 * 128, 196_608),
    "qwen2-72b": Model(72.7e9, 80 * 64 * 128, 327_680),
    "llama-2-70b": Model(69.0e9, 80 * 64 * 128, 327_680),
}

#: name: (model, GPU, GPUs, entry of the coefficients, model that the entry is of)
PROFILES = {
    "llama-30b-l20-tp4": (
        "llama-30b",
        "l20",
        4,
        "Llama-30b|L20|TP4|busbw 10 GB/s (good PCIe4 P2P)",
        None,
    ),
    "codellama-34b-l20-tp4": (
        "codellama-34b",
        "l20",
        4,
        "CodeLlama-34b|L20|TP4|busbw 10 GB/s (good PCIe4 P2P)",
        None,
    ),
    "qwen2-72b-l20-tp8": (
        "qwen2-72b",
        "l20",
        8,
        "Qwen2-72B|L20|TP8|busbw 10 GB/s (good PCIe4 P2P)",
        None,
    ),
    "llama-30b-a100-tp2": ("llama-30b", "a100", 2, "CodeLlama-34b|A100|TP2", "codellama-34b"),
    "codellama-34b-a100-tp2": ("codellama-34b", "a100", 2, "CodeLlama-34b|A100|TP2", None),
    "qwen2-72b-a100-tp4": ("qwen2-72b", "a100", 4, "Qwen2-72B|A100|TP4", None),
    "llama-30b-h100-tp2": ("llama-30b", "h100", 2, "CodeLlama-34b|H100|TP2", "codellama-34b"),
    "codellama-34b-h100-tp2": ("codellama-34b", "h100", 2, "CodeLlama-34b|H100|TP2", None),
    "qwen2-72b-h100-tp4": ("qwen2-72b", "h100", 4, "Llama-2-70b|H100|TP4", "llama-2-70b"),
}


def scaled(entry: dict[str, Any], source: Model, target: Model) -> dict[str, Any]:
    """The coefficients of another model on the same GPUs."""
    weights = target.params / source.params
    attention = target.attention / source.attention
    kv = target.kv_bytes_per_token / source.kv_bytes_per_token
    f0, f1 = entry["prefill_floor_ms"]
    l0, l1 = entry["prefill_line_ms"]
    a0, a1, a2 = entry["prefill_attn_ms"]
    d0, d1, d2 = entry["decode_ms"]
    return {
        "prefill_floor_ms": [f0 * weights, f1 * weights],
        "prefill_line_ms": [l0, l1 * weights],
        "prefill_attn_ms": [a0, a1 * attention, a2 * attention],
        "decode_ms": [d0 * weights, d1 * weights, d2 * kv],
    }


def profile(name: str, coefficients: dict[str, Any]) -> dict[str, Any]:
    """One built-in profile."""
    model_name, gpu, num_gpus, key, scaled_from = PROFILES[name]
    model, entry = MODELS[model_name], coefficients[key]
    fields = {k: entry[k] for k in entry if k.endswith("_ms")}
    source = f"{key}: {entry['source']}."
    if scaled_from:
        fields = scaled(entry, MODELS[scaled_from], model)
        source += f" Scaled from {scaled_from} to {model_name} by weights, attention and KV sizes."
    if "prefill_mape" in entry:
        source += f" Mean error of the fit: prefill {entry['prefill_mape']:.1%}"
        source += f", decode {entry['decode_mape']:.1%}."
    return {
        "name": name,
        "source": source,
        **{k: [round(float(x), 10) for x in v] for k, v in fields.items()},
        "cpu_ms": CPU_MS,
        "block_size": 16,
        "num_gpus": num_gpus,
        "gpu_memory_bytes": MEMORY_BYTES[gpu],
        "weight_bytes": int(2 * model.params),
        "kv_bytes_per_token": model.kv_bytes_per_token,
    }


def main() -> int:
    """Writes all of them."""
    if len(sys.argv) != 2:
        print("usage: derive_profiles.py fitted_coefficients.json", file=sys.stderr)
        return 2
    coefficients = json.loads(Path(sys.argv[1]).read_text())
    for name in PROFILES:
        text = json.dumps(profile(name, coefficients), indent=2)
        (OUT / f"{name}.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
