"""A dense decoder: weights as fused tensors, and the forward pass over one packed step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rondo_worker.engines.hf_config import ModelConfig
from rondo_worker.engines.torch.attention import attend_decode, attend_prefill
from rondo_worker.engines.torch.batch import StepInputs
from rondo_worker.engines.torch.kv_pool import KvPool
from rondo_worker.engines.torch.rope import pair_up, rotate_, rotation_table
from rondo_worker.engines.torch.weights import WeightFiles


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; projections are [inputs, outputs].

    `qk_norm` is [heads + kv_heads, head_dim] where the family has it.
    """

    window: int | None
    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None
    output: torch.Tensor
    output_bias: torch.Tensor | None
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class LayerReader:
    """Reads the tensors of one layer and fuses those that share their input."""

    def __init__(self, config: ModelConfig, files: WeightFiles, index: int) -> None:
        self._config = config
        self._files = files
        self._prefix = f"model.layers.{index}"
        self._index = index

    def read(self) -> Layer:
        """The layer."""
        c = self._config
        width = c.num_heads * c.head_dim
        return Layer(
            window=c.windows[self._index],
            input_norm=self._take("input_layernorm.weight", c.hidden_size),
            qkv=columns(self._qkv("weight", c.hidden_size)),
            qkv_bias=self._qkv("bias") if c.qkv_bias else None,
            qk_norm=self._qk_norm() if c.qk_norm else None,
            output=columns(self._take("self_attn.o_proj.weight", c.hidden_size, width)),
            output_bias=self._bias("self_attn.o_proj", c.hidden_size, c.output_bias),
            post_norm=self._take("post_attention_layernorm.weight", c.hidden_size),
            gate_up=columns(self._gate_up("weight", c.hidden_size)),
            gate_up_bias=self._gate_up("bias") if c.mlp_bias else None,
            down=columns(self._take("mlp.down_proj.weight", c.hidden_size, c.intermediate_size)),
            down_bias=self._bias("mlp.down_proj", c.hidden_size, c.mlp_bias),
        )

    def _take(self, name: str, *shape: int) -> torch.Tensor:
        return self._files.take(f"{self._prefix}.{name}", shape)

    def _bias(self, name: str, size: int, present: bool) -> torch.Tensor | None:
        return self._take(f"{name}.bias", size) if present else None

    def _qkv(self, kind: str, *inputs: int) -> torch.Tensor:
        c = self._config
        parts = []
        for name, heads in (("q", c.num_heads), ("k", c.num_kv_heads), ("v", c.num_kv_heads)):
            rows = self._take(f"self_attn.{name}_proj.{kind}", heads * c.head_dim, *inputs)
            parts.append(rows if name == "v" else pair_up(rows, heads))
        return torch.cat(parts)

    def _qk_norm(self) -> torch.Tensor:
        c = self._config
        query = pair_up(self._take("self_attn.q_norm.weight", c.head_dim), 1)
        key = pair_up(self._take("self_attn.k_norm.weight", c.head_dim), 1)
        return torch.stack([query] * c.num_heads + [key] * c.num_kv_heads)

    def _gate_up(self, kind: str, *inputs: int) -> torch.Tensor:
        size = self._config.intermediate_size
        parts = [self._take(f"mlp.{n}_proj.{kind}", size, *inputs) for n in ("gate", "up")]
        return torch.cat(parts)


class DecoderModel:
    """Computes logits of a packed step and stores its keys and values in the pool.

    Args:
        config: the model's shape. files: its tensors. num_positions: longest sequence.
        device: where it runs.
    """

    def __init__(
        self, config: ModelConfig, files: WeightFiles, num_positions: int, device: torch.device
    ) -> None:
        self._config = config
        vocabulary = (config.vocab_size, config.hidden_size)
        self._embedding = files.take("model.embed_tokens.weight", vocabulary)
        self._layers = [LayerReader(config, files, i).read() for i in range(config.num_layers)]
        self._norm = files.take("model.norm.weight", (config.hidden_size,))
        tied = config.tied_embeddings
        self._head = (self._embedding if tied else files.take("lm_head.weight", vocabulary)).t()
        self._eps = torch.tensor(config.norm_eps, device=device)
        self._rotations = rotation_table(config.rope, config.head_dim, num_positions, device)

    def forward(self, inputs: StepInputs, pool: KvPool) -> torch.Tensor:
        """Logits [rows, vocabulary] of the rows that need them."""
        hidden = F.embedding(inputs.tokens, self._embedding)
        rotations = self._rotations.index_select(0, inputs.positions)
        for index, layer in enumerate(self._layers):
            normed = self._normalise(hidden, layer.input_norm)
            mixed = self._attention(layer, normed, rotations, inputs, pool, index)
            add_projection_(hidden, mixed, layer.output, layer.output_bias)
            normed = self._normalise(hidden, layer.post_norm)
            gate, up = project(normed, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
            add_projection_(hidden, F.silu(gate).mul_(up), layer.down, layer.down_bias)
        if inputs.last_rows is not None:
            hidden = hidden.index_select(0, inputs.last_rows)
        return torch.mm(self._normalise(hidden, self._norm), self._head)

    def _attention(
        self,
        layer: Layer,
        normed: torch.Tensor,
        rotations: torch.Tensor,
        inputs: StepInputs,
        pool: KvPool,
        index: int,
    ) -> torch.Tensor:
        c = self._config
        heads = project(normed, layer.qkv, layer.qkv_bias).view(-1, *self._head_rows())
        turned = heads[:, : c.num_heads + c.num_kv_heads]
        if layer.qk_norm is not None:
            turned.mul_(inverse_rms(turned, self._eps)).mul_(layer.qk_norm)
        rotate_(turned, rotations)
        queries = heads[:, : c.num_heads]
        fresh = heads[:, c.num_heads :].view(-1, 2, c.num_kv_heads, c.head_dim)
        pool.slots[index].index_copy_(0, inputs.slots, fresh)
        blocks = pool.blocks[index]
        if inputs.decode:
            return attend_decode(queries, blocks, inputs.decode[layer.window], c.num_kv_heads)
        return attend_prefill(queries, fresh, blocks, inputs.segments[layer.window])

    def _normalise(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if rows.is_cuda:
            return F.rms_norm(rows, weight.shape, weight, self._config.norm_eps)
        # On a CPU F.rms_norm is a longer chain of small operations than this.
        return (rows * inverse_rms(rows, self._eps)).to(rows.dtype).mul_(weight)

    def _head_rows(self) -> tuple[int, int]:
        c = self._config
        return c.num_heads + 2 * c.num_kv_heads, c.head_dim


def columns(weight: torch.Tensor) -> torch.Tensor:
    """A checkpoint's [outputs, inputs] matrix as [inputs, outputs].

    On a CPU also in memory: MKL multiplies a few rows with such a matrix up to six times faster.
    """
    return weight.t() if weight.is_cuda else weight.t().contiguous()


def project(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """rows @ weight + bias."""
    return torch.mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)


def add_projection_(
    total: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """Adds rows @ weight + bias to `total`, in place."""
    total.addmm_(rows, weight)
    if bias is not None:
        total.add_(bias)


def inverse_rms(rows: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(mean of squares + eps) over the last dimension, in float32; `eps` is a scalar."""
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, norm, norm, value=1.0 / rows.shape[-1]).rsqrt_()
