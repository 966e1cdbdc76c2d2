"""CUDA devices of a local cluster: each worker has its own, where there are enough."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
LISTING_TIMEOUT_S = 20.0


def cuda_devices(env: Mapping[str, str]) -> list[str]:
    """The devices that programs with this environment see; none where there is no driver."""
    if VISIBLE in env:
        return [name.strip() for name in env[VISIBLE].split(",") if name.strip()]
    command = shutil.which("nvidia-smi", path=env.get("PATH"))
    if command is None:
        return []
    options = ("--query-gpu=index", "--format=csv,noheader")
    try:
        listing = subprocess.run(
            [command, *options],
            capture_output=True,
            text=True,
            timeout=LISTING_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listing.stdout.split()


def devices_needed(engine: str, env: Mapping[str, str]) -> int:
    """Of one worker; 0: it takes none, or its user has chosen."""
    if engine == "emulated" or env.get("RONDO_DEVICE", "") not in ("", "auto", "cuda"):
        return 0
    pipeline = _parallel(env, "RONDO_PIPELINE_PARALLEL")
    if engine == "vllm":
        return pipeline * _parallel(env, "RONDO_TENSOR_PARALLEL")
    return pipeline if engine == "pipeline" else 1


def devices_of(index: int, devices: Sequence[str], needed: int) -> str:
    """CUDA_VISIBLE_DEVICES of a worker; empty: it sees all, because there is nothing to choose.

    With more workers than the devices suffice for, they share.
    """
    if not needed or len(devices) <= needed:
        return ""
    begin = index % (len(devices) // needed) * needed
    return ",".join(devices[begin : begin + needed])


def _parallel(env: Mapping[str, str], name: str) -> int:
    """The setting, where it is one: the worker says what is wrong with another."""
    text = env.get(name, "")
    return max(1, int(text)) if text.isdecimal() else 1
