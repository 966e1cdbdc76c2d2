"""Compiled decode kernels: Triton's on CUDA, and on a CPU the C++ one of this folder.

The latter is built with the machine's own compiler, once.

No headers of torch are used: pointers and sizes go through a C call, so a build takes a second or
two. The library lies in the user's cache folder under a hash of source, flags, compiler and
processor. Where there is no compiler, the torch path does the same work, slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from rondo_worker.engines.torch.attention import PagedDecode

log = logging.getLogger("rondo.worker.torch")

SOURCE = Path(__file__).with_name("paged_decode.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT_S = 60.0
DTYPES = (torch.float32, torch.bfloat16)


class NativeKernels:
    """The functions of the built library. Implements `PagedDecode` on a CPU."""

    def __init__(self, path: Path) -> None:
        self._paged_decode = ctypes.CDLL(str(path)).rondo_paged_decode
        pointers, sizes = [ctypes.c_void_p] * 5, [ctypes.c_int64] * 8
        self._paged_decode.argtypes = [
            *pointers,
            *sizes,
            ctypes.c_float,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self._paged_decode.restype = None

    def paged_decode(
        self,
        queries: torch.Tensor,
        slots: torch.Tensor,
        tables: torch.Tensor,
        positions: torch.Tensor,
        block_size: int,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of one query a sequence over the pool; see `PagedDecode`."""
        batch, heads, dim = queries.shape
        asked = queries.float()
        out = torch.empty(batch, heads * dim)
        self._paged_decode(
            asked.data_ptr(),
            slots.data_ptr(),
            tables.data_ptr(),
            positions.data_ptr(),
            out.data_ptr(),
            batch,
            heads,
            slots.shape[2],
            dim,
            asked.stride(0),
            tables.shape[1],
            block_size,
            window or 0,
            dim**-0.5,
            slots.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out.to(queries.dtype)


def load_kernels(device: torch.device, dtype: torch.dtype) -> PagedDecode | None:
    """The kernel for a device and a KV type, built now if it never was; None where there is none.

    On a CPU that is the C++ one, on CUDA Triton's.
    """
    if device.type == "cuda":
        return _load_triton(device, dtype)
    return _load() if dtype in DTYPES else None


def _load_triton(device: torch.device, dtype: torch.dtype) -> PagedDecode | None:
    """Triton's kernel, after it has been compiled and has run once."""
    try:
        from rondo_worker.engines.torch.triton_decode import TritonKernels

        kernels = TritonKernels()
        slots = torch.ones(16, 2, 1, 16, device=device, dtype=dtype)
        zeros = torch.zeros(1, 1, device=device, dtype=torch.int64)
        out = kernels.paged_decode(slots[:1, 0], slots, zeros, zeros[0], 16, None)
        if bool((out == 1.0).all()):
            return kernels
        log.warning("Triton's decode kernel computes wrong, attention runs in torch and slower")
    except Exception as error:  # Triton's compiler has no common error
        log.warning("no Triton kernel, decode attention runs in torch and slower: %s", error)
    return None


@functools.cache
def _load() -> NativeKernels | None:
    try:
        return NativeKernels(build(cache_folder()))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no native kernel, decode attention runs in torch and slower: %s", error)
        return None


def cache_folder() -> Path:
    """Where built libraries lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rondo" / "kernels"


def build(folder: Path) -> Path:
    """The library in `folder`, compiled if it is not there yet.

    Raises:
        OSError: there is no compiler or source, or the folder cannot be written.
        subprocess.SubprocessError: the compiler fails or takes too long.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError(f"none of {', '.join(COMPILERS)} is installed")
    target = folder / f"paged_decode-{_fingerprint(compiler)}.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
        made.replace(target)  # at once, so that two workers that start together do no harm
    log.info("built the native decode kernel: %s", target)
    return target


def _fingerprint(compiler: str) -> str:
    """Changes with whatever the library depends on: -march=native means this very processor."""
    binary = Path(compiler).resolve().stat()
    parts = [SOURCE.read_text(), *FLAGS, compiler, str(binary.st_mtime_ns), str(binary.st_size)]
    return hashlib.sha256("\n".join([*parts, _processor()]).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's name and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
