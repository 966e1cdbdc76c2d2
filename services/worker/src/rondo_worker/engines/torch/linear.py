"""Matrix products with weights, laid out once for the library that multiplies fastest.

A decode step multiplies a few rows with every weight of the model, so it takes as long as reading
them does, if the layout lets the library read them at the memory's pace. Row-major weights do not:
MKL reaches half of it at 8 rows (measured with torch 2.13 on AVX-512), its own packed layout all.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

import torch

#: Rows that weights are packed for. MKL and oneDNN choose their layout by it; it is best, or
#: within 5 % of the best, from one row to two thousand.
PACKED_FOR_ROWS = 512
ONEDNN_PACKED_FOR_ROWS = 64
#: Row counts that a packed layout is tried with before it is trusted.
TRIED_ROWS = (1, 2, 7, 33, 130)
#: Where Linux says what the processor can do.
CPUINFO = Path("/proc/cpuinfo")


class Linear(Protocol):
    """Multiplies rows [T, inputs] with a weight and adds its bias."""

    @property
    def nbytes(self) -> int:
        """Memory of the weight, as torch.Tensor.nbytes."""
        ...

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight + bias, as [T, outputs] in the type of `rows`."""
        ...


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type that a model of this type is multiplied in.

    A CPU without bfloat16 units emulates them five times slower than it computes in float32.
    """
    emulated = device.type == "cpu" and dtype == torch.bfloat16 and not has_native_bf16()
    return torch.float32 if emulated else dtype


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest product for a checkpoint's [outputs, inputs] matrix where it lies.

    It takes rows of the weight's `compute_dtype`.
    """
    if weight.is_cuda:
        return PlainLinear(weight.t(), bias)
    dtype = compute_dtype(weight.dtype, weight.device)
    if dtype == torch.bfloat16:
        return OnednnLinear(weight, bias)
    if dtype == torch.float32 and mkl_packs(*weight.shape):
        return MklLinear(weight, bias)
    # In memory too: a few rows times such a matrix are up to six times faster.
    matrix = weight.to(dtype).t().contiguous()
    return PlainLinear(matrix, None if bias is None else bias.to(dtype))


class PlainLinear:
    """torch.mm with a matrix [inputs, outputs]."""

    def __init__(self, matrix: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._matrix = matrix
        self._bias = bias
        self.nbytes = matrix.nbytes

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight + bias."""
        if self._bias is None:
            return torch.mm(rows, self._matrix)
        return torch.addmm(self._bias, rows, self._matrix)


class MklLinear:
    """MKL's packed single-precision product; bfloat16 weights are kept as float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.float(), PACKED_FOR_ROWS)
        # The operator takes the outputs' number from the weight's shape and reads nothing of it
        # as long as it is told that the weight was packed for the rows at hand.
        self._shape = torch.empty(1, 1).expand(weight.shape)
        self._bias = None if bias is None else bias.float()
        self.nbytes = 4 * weight.numel()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight + bias; rows in float32."""
        out: torch.Tensor = torch.ops.mkl._mkl_linear(
            rows.contiguous(), self._packed, self._shape, self._bias, rows.shape[0]
        )
        return out


class OnednnLinear:
    """oneDNN's packed product: bfloat16 on CPUs with AMX or AVX-512 BF16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        pack = torch.ops.mkldnn._reorder_linear_weight
        self._packed = pack(weight.contiguous(), ONEDNN_PACKED_FOR_ROWS)
        self._bias = bias
        self.nbytes = weight.nbytes

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """rows @ weight + bias."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._packed, self._bias, "none", [], ""
        )
        return out


@functools.cache
def mkl_packs(outputs: int, inputs: int) -> bool:
    """Whether weights of this shape can be packed for MKL and used with any number of rows.

    MKL documents a packed matrix for the row count that it was packed for only; every version
    there is takes others too. That is tried here and not believed.
    """
    if not torch.backends.mkl.is_available() or not hasattr(torch.ops.mkl, "_mkl_linear"):
        return False
    dice = torch.Generator().manual_seed(outputs + inputs)
    weight = torch.randn(outputs, inputs, generator=dice)
    linear = MklLinear(weight, None)
    rows = torch.randn(max(TRIED_ROWS), inputs, generator=dice)
    expected = rows @ weight.t()
    limit = 1e-4 * max(1.0, float(expected.abs().max()))
    return all(
        bool(((linear(rows[:count]) - expected[:count]).abs() < limit).all())
        for count in TRIED_ROWS
    )


@functools.cache
def has_native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; Linux only, False where nobody says."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    words = {
        word
        for line in text.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
        for word in line.partition(":")[2].split()
    }
    return not words.isdisjoint(("amx_bf16", "avx512_bf16", "bf16"))
