"""The compiled kernel and packed products: right, built once, and never needed."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rondo_worker.engines.torch import linear, native

INTERPRET = "TRITON_INTERPRET"
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in native.COMPILERS), reason="no C++ compiler"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["native", "triton"])
def kernels(request: pytest.FixtureRequest) -> Any:
    """Each kernel that can run on a CPU: the compiled one, and Triton's in its interpreter."""
    if request.param == "triton":
        if os.environ.get(INTERPRET) != "1":
            pytest.skip(f"runs in a process of its own, with {INTERPRET}=1")
        name = "rondo_worker.engines.torch.triton_decode"
        return importlib.import_module(name).TritonKernels()
    if not any(shutil.which(name) for name in native.COMPILERS):
        pytest.skip("no C++ compiler")
    return native.NativeKernels(request.getfixturevalue("library"))


def expected_attention(
    query: torch.Tensor, slots: torch.Tensor, table: list[int], seen: range, block_size: int
) -> torch.Tensor:
    """One sequence, head by head, in float64."""
    heads, dim = query.shape
    places = [table[t // block_size] * block_size + t % block_size for t in seen]
    keys, values = slots[places].double().unbind(1)
    out = []
    for head in range(heads):
        kv_head = head * slots.shape[2] // heads
        scores = keys[:, kv_head] @ query[head].double() / dim**0.5
        out.append(scores.softmax(0) @ values[:, kv_head])
    return torch.cat(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(4, 4, 64), (4, 2, 128), (6, 2, 20), (3, 1, 7)]
)
@pytest.mark.parametrize("window", [None, 5])
def test_the_kernel_attends_to_what_each_sequence_sees(
    kernels: Any, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, window: int | None
) -> None:
    torch.manual_seed(heads)
    block_size, positions = 4, [0, 3, 4, 17, 90]
    slots = torch.randn(40 * block_size, 2, kv_heads, dim).to(dtype)
    # Scores far apart and far from 0: the softmax must neither overflow nor lose the largest.
    packed = torch.randn(len(positions), heads + 2 * kv_heads, dim) * 40
    queries = packed[:, :heads]
    tables = torch.stack([torch.randperm(40)[:23] for _ in positions])
    out = kernels.paged_decode(queries, slots, tables, torch.tensor(positions), block_size, window)
    for row, last in enumerate(positions):
        first = 0 if window is None else max(0, last - window + 1)
        table = tables[row].tolist()
        seen = range(first, last + 1)
        expected = expected_attention(queries[row], slots, table, seen, block_size)
        torch.testing.assert_close(out[row].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_triton_kernel_does_the_same_in_its_interpreter() -> None:
    # Triton looks at the variable when it is imported, which importing torch may bring about.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "attends and triton"],
        env={**os.environ, INTERPRET: "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    assert "16 passed" in done.stdout


@needs_compiler
def test_a_library_is_built_once(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert native.build(library.parent) == library
    assert [path.name for path in library.parent.iterdir()] == [library.name]


@pytest.mark.parametrize("fault", ["no compiler", "no folder", "compile error"])
def test_without_a_library_there_are_no_kernels_and_a_line_in_the_log(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native._load.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if fault == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif fault == "no folder":
        (tmp_path / "cache").write_text("a file where the folder should be")
    else:
        broken = tmp_path / "broken.cpp"
        broken.write_text("this is no C++")
        monkeypatch.setattr(native, "SOURCE", broken)
    assert native.load_kernels(torch.device("cpu"), torch.float32) is None
    assert "decode attention runs in torch" in caplog.text
    native._load.cache_clear()


def test_half_precision_that_the_kernel_cannot_read_is_left_to_torch() -> None:
    assert native.load_kernels(torch.device("cpu"), torch.float16) is None


@pytest.mark.parametrize("native_bf16", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_are_right_for_any_number_of_rows(
    dtype: torch.dtype, native_bf16: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "has_native_bf16", lambda: native_bf16)
    torch.manual_seed(1)
    weight, bias = torch.randn(70, 40).to(dtype), torch.randn(70).to(dtype) if with_bias else None
    product = linear.make_linear(weight, bias)
    asked = linear.compute_dtype(dtype, weight.device)
    assert asked == (dtype if native_bf16 else torch.float32)
    for count in (1, 2, 5, 31, 64, 65, 513):
        rows = torch.randn(count, 40).to(asked)
        expected = rows.double() @ weight.double().t()
        if bias is not None:
            expected += bias.double()
        out = product(rows)
        assert out.dtype == asked
        limit = 1e-4 if asked == torch.float32 else 0.01 * float(expected.abs().max())
        assert float((out.double() - expected).abs().max()) < limit


def test_where_mkl_cannot_pack_the_plain_product_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "mkl_packs", lambda outputs, inputs: False)
    weight, rows = torch.randn(9, 5), torch.randn(3, 5)
    product = linear.make_linear(weight)
    assert isinstance(product, linear.PlainLinear)
    torch.testing.assert_close(product(rows), rows @ weight.t())


@pytest.mark.parametrize(
    ("text", "native_bf16"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("model name\t: a bf16 in a name\nflags\t\t: fpu avx512_bf16\n", True),
        ("flags\t\t: amx_bf16 amx_tile\n", True),
        ("Features\t: asimd bf16\n", True),
        ("model name\t: amx_bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_units_are_read_from_the_processors_flags(
    text: str | None, native_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert linear.has_native_bf16.__wrapped__() is native_bf16


def test_a_triton_that_does_not_work_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("it works here")
    assert native.load_kernels(torch.device("cuda"), torch.bfloat16) is None
    assert "decode attention runs in torch" in caplog.text
