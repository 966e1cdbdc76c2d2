"""Writes the built-in latency profiles from the fitted coefficients of public measurements.

Run from the repository root:

    .venv/bin/python tools/perf/derive_profiles.py ../shared/data/profiles/fitted_coefficients.json

Where a shape was not measured, coefficients of a like one on the same GPUs and tensor parallelism
are scaled by what bounds each (`scaled`). `--check` writes nothing: it applies the rule to pairs
that were both measured, and prints how far it is off.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rondo.perf.profile import LatencyProfile

OUT = Path("shared/src/rondo/perf/profiles")
#: Engine overhead of a step: what the kernels' times lack against measured engines (2.8 to 7 ms
#: for scheduling, inputs, sampling and outputs in Vidur's overhead tables).
CPU_MS = 4.0


@dataclass(frozen=True)
class Gpu:
    """A GPU and its links: HBM bytes/s at peak, all-reduce bus bytes/s at 32 MB by parallelism
    (A100, H100: Vidur's measurements on DGX; higher parallelism as 4)."""

    memory_bytes: int
    hbm: float = 0.0
    bus_tp2: float = 0.0
    bus_tp4: float = 0.0

    def bus(self, num_gpus: int) -> float:
        """All-reduce bus bandwidth in bytes/s."""
        return self.bus_tp2 if num_gpus == 2 else self.bus_tp4


GPUS = {
    "l20": Gpu(48_000_000_000),
    "a100": Gpu(80_000_000_000, 2.039e12, 136e9, 157e9),
    "h100": Gpu(80_000_000_000, 3.35e12, 247e9, 301e9),
    "h200": Gpu(141_000_000_000),
}
#: Share of peak HBM bandwidth at which weights are read, as in TD-Pipe's L20 tables.
HBM_SHARE = 0.85


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder; `width` is the hidden size, and query heads x head size."""

    params: int
    layers: int
    width: int
    kv_bytes_per_token: int


MODELS = {
    "llama-2-13b": Model(13_015_864_320, 40, 5120, 40 * 5120 * 2 * 2),
    "llama-30b": Model(32_528_943_616, 60, 6656, 60 * 6656 * 2 * 2),
    "codellama-34b": Model(33_743_970_304, 48, 8192, 48 * 1024 * 2 * 2),
    "llama-2-70b": Model(68_976_648_192, 80, 8192, 80 * 1024 * 2 * 2),
    "qwen-72b": Model(72_287_920_128, 80, 8192, 80 * 8192 * 2 * 2),
    "qwen2-72b": Model(72_706_203_648, 80, 8192, 80 * 1024 * 2 * 2),
    "llama-3-8b": Model(8_030_261_248, 32, 4096, 32 * 1024 * 2 * 2),
}

#: name: (model, GPU, GPUs, entry of the coefficients, model that the entry is of)
PROFILES = {
    "llama-2-13b-l20-tp1": ("llama-2-13b", "l20", 1, "Llama-2-13b|L20|sum over PP stages", None),
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
    "llama-3-8b-h200-tp1": ("llama-3-8b", "h200", 1, "Llama-3-8B|H200|TP1", None),
}
#: One GPU needs no engine processes beside its own.
CPU_MS_ALONE = 2.0
#: (measured, predicted from, GPU, GPUs): pairs that `--check` compares.
PAIRS = (
    ("Llama-2-70b", "CodeLlama-34b", "A100", 2),
    ("Llama-2-70b", "CodeLlama-34b", "A100", 4),
    ("Llama-2-70b", "CodeLlama-34b", "H100", 4),
    ("Qwen2-72B", "Llama-2-70b", "A100", 4),
    ("Qwen2-72B", "Llama-2-70b", "A100", 8),
    ("Qwen-72B", "Llama-2-70b", "A100", 8),
    ("Qwen-72B", "Llama-2-70b", "H100", 8),
)


def scaled(
    entry: dict[str, Any], source: Model, target: Model, gpu: Gpu, num_gpus: int
) -> dict[str, Any]:
    """The coefficients (ms) of another model on the same GPUs.

    Floors are the reading of the weights, by bytes, and the rest (launches, small all-reduces), by
    layers. The line is an all-reduce, by layers x width, and matrices, by parameters. Attention
    goes by layers x width, the KV term by KV bytes a token.
    """
    layers = target.layers / source.layers
    wide = layers * target.width / source.width
    read_ms, new_read_ms = (
        2e3 * model.params / num_gpus / (HBM_SHARE * gpu.hbm) for model in (source, target)
    )
    ring = 2 * (num_gpus - 1) / num_gpus
    reduce_ms = 1e3 * source.layers * 2 * source.width * 2 * ring / gpu.bus(num_gpus)
    f0, f1 = entry["prefill_floor_ms"]
    l0, l1 = entry["prefill_line_ms"]
    a0, a1, a2 = entry["prefill_attn_ms"]
    d0, d1, d2 = entry["decode_ms"]
    matrices_ms = (l1 - reduce_ms) * target.params / source.params
    return {
        "prefill_floor_ms": [new_read_ms + (f0 - read_ms) * layers, f1 * wide],
        "prefill_line_ms": [l0 * layers, matrices_ms + reduce_ms * wide],
        "prefill_attn_ms": [a0 * layers, a1 * wide, a2 * wide],
        "decode_ms": [
            new_read_ms + (d0 - read_ms) * layers,
            d1 * wide,
            d2 * target.kv_bytes_per_token / source.kv_bytes_per_token,
        ],
    }


def profile(name: str, coefficients: dict[str, Any]) -> dict[str, Any]:
    """One built-in profile."""
    model_name, gpu, num_gpus, key, scaled_from = PROFILES[name]
    model, entry = MODELS[model_name], coefficients[key]
    fields = {k: entry[k] for k in entry if k.endswith("_ms")}
    source = f"{key}: {entry['source']}."
    if scaled_from:
        fields = scaled(entry, MODELS[scaled_from], model, GPUS[gpu], num_gpus)
        source += f" Not measured: scaled from {scaled_from} to {model_name} by weights, layers,"
        source += " width and KV bytes (tools/perf/derive_profiles.py)."
    if "prefill_mape" in entry:
        source += f" Mean error of the fit: prefill {entry['prefill_mape']:.1%}"
        source += f", decode {entry['decode_mape']:.1%}."
    return {
        "name": name,
        "source": source,
        "licence": licence(entry["source"]),
        **{k: [float(f"{x:.6g}") for x in v] for k, v in fields.items()},
        "cpu_ms": CPU_MS if num_gpus > 1 else CPU_MS_ALONE,
        "block_size": 16,
        "num_gpus": num_gpus,
        "gpu_memory_bytes": GPUS[gpu].memory_bytes,
        "weight_bytes": 2 * model.params,
        "kv_bytes_per_token": model.kv_bytes_per_token,
    }


def licence(source: str) -> str:
    """Of the tables that an entry was fitted to; see profiles/README.md."""
    held = [
        ("vidur", "MIT (microsoft/vidur)"),
        ("aiconfigurator", "Apache-2.0 (ai-dynamo/aiconfigurator)"),
        ("TD-Pipe", "Apache-2.0 (MLSysU/TD-Pipe)"),
    ]
    return "; ".join(text for word, text in held if word in source)


def check(coefficients: dict[str, Any]) -> None:
    """Prints the rule's error in percent for each of PAIRS: prefills, decode steps."""
    steps = [(256, 0), (1024, 0), (4096, 0), (0, 1), (0, 32), (0, 128)]
    print("predicted, from | " + " | ".join(f"{n} tokens" if n else f"batch {b}" for n, b in steps))
    for target, source, gpu, num_gpus in PAIRS:
        entry, true = (coefficients[f"{name}|{gpu}|TP{num_gpus}"] for name in (source, target))
        models = (MODELS[source.lower()], MODELS[target.lower()])
        rule = scaled(entry, *models, GPUS[gpu.lower()], num_gpus)
        errors = [step_ms(rule, *step) / step_ms(true, *step) - 1 for step in steps]
        print(f"{target} from {source}, {gpu} x {num_gpus} |", *(f"{e:+.1%}" for e in errors))


def step_ms(fields: dict[str, Any], tokens: int, batch: int) -> float:
    """A prefill of `tokens`, else a decode of `batch` sequences of 500 tokens."""
    return (
        msgspec.convert(fields, LatencyProfile).step_s(tokens, tokens**2, batch, 500 * batch) * 1e3
    )


def main() -> int:
    """Writes all of them, or checks the rule."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    if len(arguments) != 1:
        print("usage: derive_profiles.py [--check] fitted_coefficients.json", file=sys.stderr)
        return 2
    coefficients = json.loads(Path(arguments[0]).read_text())
    if "--check" in sys.argv:
        check(coefficients)
        return 0
    for name in PROFILES:
        text = json.dumps(profile(name, coefficients), indent=2)
        (OUT / f"{name}.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
