"""Step times of a model on a pipeline of L20s, from TD-Pipe's measured tables.

The tables (`profiles/`, see the README there) have the time of the whole model over the tokens of a
step, 1 to 2,048, measured with one prompt of that length. They know neither the reading of cached
KV nor attention over earlier chunks; both are added here, from bytes and operations.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from importlib import resources

import msgspec

from rondo.perf.profile import pool_blocks

#: Of one L20. Bandwidth and arithmetic that kernels reach: shares of 864 GB/s and 119.5 TFLOPS.
GPU_MEMORY_BYTES = 48 * 10**9
READ_BYTES_PER_S = 0.75 * 864e9
ATTENTION_FLOPS = 0.5 * 119.5e12
#: What activations cross between stages at: PCIe 4.0 x16, as it measures.
LINK_BYTES_PER_S = 20e9
BLOCK_SIZE = 16
#: All-reduce over PCIe with NCCL, four cards, measured on L40S (33.5 MB in 19.7 ms); and its start.
REDUCE_BYTES_PER_S = 33.5e6 / 19.7e-3
REDUCE_S = 30e-6


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What of a model decides memory and attention; sizes in bytes are of fp16."""

    name: str
    table: str
    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_size: int
    weight_bytes: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * 2 * self.num_layers * self.num_kv_heads * self.head_size

    def num_blocks(self, num_stages: int) -> int:
        """KV blocks of the pipeline, as vLLM would find them with nine tenths of the memory."""
        return pool_blocks(
            num_stages, GPU_MEMORY_BYTES, self.weight_bytes, self.kv_bytes_per_token, BLOCK_SIZE
        )

    @property
    def hop_s_per_token(self) -> float:
        """Seconds that one token's activations need from a stage to the next."""
        return 2 * self.hidden_size / LINK_BYTES_PER_S


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape(
            name="llama-2-13b",
            table="L20-Llama-13B",
            num_layers=40,
            hidden_size=5120,
            num_kv_heads=40,
            head_size=128,
            weight_bytes=26_031_000_000,
        ),
        ModelShape(
            name="qwen2.5-32b",
            table="L20-Qwen2.5-32B",
            num_layers=64,
            hidden_size=5120,
            num_kv_heads=8,
            head_size=128,
            weight_bytes=65_527_000_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class TableModel:
    """Implements LatencyModel: the measured table, the KV that decodes read, earlier chunks."""

    table_s: tuple[float, ...]
    """Seconds of a step of n tokens at index n."""
    read_s: float
    """Seconds for each cached token of a decoding sequence."""
    pair_s: float
    """Seconds for each unit of `pairs` that the table has not."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        """Seconds of one step of the whole model; see LatencyModel."""
        rows = tokens + num_decodes
        last = len(self.table_s) - 1
        base_s = self.table_s[rows] if rows <= last else self.table_s[last] * rows / last
        # The table's prompt of `tokens` tokens has that many pairs squared already.
        beyond = max(0, pairs - tokens * tokens)
        return base_s + self.read_s * context_tokens + self.pair_s * beyond


def load_model(shape: ModelShape) -> TableModel:
    """The model's table that ships with the benchmarks."""
    path = resources.files("rondo_bench.tdpipe") / "profiles" / f"{shape.table}.csv.gz"
    rows = csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines())
    times_s = [0.0, *(float(row["Execute Time"]) / 1e3 for row in rows)]
    # Causal attention: 4 operations for each pair and element of the heads, pairs counted twice.
    pair_flops = 4 * shape.num_layers * shape.hidden_size / 2
    return TableModel(
        table_s=tuple(times_s),
        read_s=shape.kv_bytes_per_token / READ_BYTES_PER_S,
        pair_s=pair_flops / ATTENTION_FLOPS,
    )


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """Implements LatencyModel: the same model split within its layers over `num_gpus` cards, with
    two all-reduces a layer over PCIe, which nothing hides."""

    whole: TableModel
    shape: ModelShape
    num_gpus: int

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        """Seconds of one step; see LatencyModel."""
        rows = tokens + num_decodes
        compute_s = self.whole.step_s(tokens, pairs, num_decodes, context_tokens) / self.num_gpus
        reduce_s = REDUCE_S + 2 * rows * self.shape.hidden_size / REDUCE_BYTES_PER_S
        return compute_s + 2 * self.shape.num_layers * reduce_s
