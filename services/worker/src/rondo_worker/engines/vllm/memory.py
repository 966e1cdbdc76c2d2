"""What vLLM holds in memory: it says so itself only in its logs."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from rondo_worker.engines.memory import process_peak_bytes

#: Types of a checkpoint that vLLM converts to the one it computes in; it keeps all others.
FLOATS = frozenset(("F16", "BF16", "F32"))
#: Bytes of an element of those others, where it is not one.
SIZES = {"I16": 2, "I32": 4, "I64": 8, "F64": 8}


def weight_bytes(folder: Path, itemsize: int) -> int:
    """Memory of a folder's weights with floats of `itemsize` bytes.

    Counted in the files, because vLLM repacks what it has loaded: on a CPU, its model's own
    parameters are empty afterwards. 0 where there are no safetensors.
    """
    from safetensors import safe_open  # with vllm installed it is, too

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                kind = part.get_dtype()
                size = itemsize if kind in FLOATS else SIZES.get(kind, 1)
                total += prod(part.get_shape()) * size
    return total


def peak_bytes(worker: Any) -> int:
    """The most that one of vLLM's workers has held: allocated on its device, or resident in its
    process. Sent to the workers by `collective_rpc`."""
    import torch

    device = worker.model_runner.device
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak_bytes()
