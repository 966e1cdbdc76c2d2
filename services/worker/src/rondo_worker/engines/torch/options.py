"""What options of the torch engine stand for: device, number type, threads, longest sequence."""

from __future__ import annotations

import torch

from rondo.errors import ConfigError, ModelError
from rondo_worker.engines.hf_config import DTYPES, ModelConfig
from rondo_worker.engines.torch.linear import has_native_bf16

#: Below this size one CPU thread is the default: a step is then many products of a few
#: microseconds, and threads that wait for each other on busy cores lose whole time slices.
ONE_THREAD_PARAMETERS = 100_000_000


def choose_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError("device", f"{name!r} is none of auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", f"{name!r}, but torch sees no CUDA device")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("device", f"{name!r} is none of auto, cpu, cuda, cuda:N")
    return device


def use_device(device: torch.device) -> None:
    """Has the calling thread launch its kernels there: Triton asks for nothing else."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of weights and KV; "auto" is bfloat16 where the device multiplies it itself.

    Raises:
        ConfigError: the name is none of a type.
    """
    if name == "auto":
        fast = device.type == "cuda" or has_native_bf16()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ConfigError("dtype", f"{name!r} is none of auto, {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def set_threads(wanted: int | None, config: ModelConfig, device: torch.device) -> None:
    """Sets torch's CPU threads; None: one for a small model on a CPU, else as torch chose.

    Raises:
        ConfigError: fewer than one.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError("num_threads", f"is {wanted}; expected at least 1")
    if wanted is None and device.type == "cpu" and config.num_parameters < ONE_THREAD_PARAMETERS:
        wanted = 1
    if wanted is not None:
        torch.set_num_threads(wanted)


def limit_model_len(config: ModelConfig, wanted: int | None) -> int:
    """The longest prompt plus answer, in tokens: the model's own limit, or less if wanted.

    Raises:
        ModelError: the model does not take as many.
    """
    if wanted is None:
        return config.max_positions
    if not 1 < wanted <= config.max_positions:
        raise ModelError(
            "max_model_len", f"is {wanted}; {config.folder} takes 2 to {config.max_positions}"
        )
    return wanted
