"""A dense decoder: weights as fused tensors, and the forward pass over one packed step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rondo_worker.engines.hf_config import ModelConfig
from rondo_worker.engines.torch.attention import PagedDecode, attend_decode, attend_prefill
from rondo_worker.engines.torch.batch import DecodeView, StepInputs
from rondo_worker.engines.torch.kv_pool import KvPool
from rondo_worker.engines.torch.linear import Linear, compute_dtype, make_linear
from rondo_worker.engines.torch.rope import pair_up, rotate_, rotation_table
from rondo_worker.engines.torch.weights import WeightFiles


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `qk_norm` is [heads + kv_heads, head_dim] where the family has it."""

    window: int | None
    input_norm: torch.Tensor
    qkv: Linear
    qk_norm: torch.Tensor | None
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


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
            qkv=self._fused(self._qkv, c.hidden_size, bias=c.qkv_bias),
            qk_norm=self._qk_norm() if c.qk_norm else None,
            output=self._single("self_attn.o_proj", c.hidden_size, width, bias=c.output_bias),
            post_norm=self._take("post_attention_layernorm.weight", c.hidden_size),
            gate_up=self._fused(self._gate_up, c.hidden_size, bias=c.mlp_bias),
            down=self._single("mlp.down_proj", c.hidden_size, c.intermediate_size, bias=c.mlp_bias),
        )

    def _take(self, name: str, *shape: int) -> torch.Tensor:
        return self._files.take(f"{self._prefix}.{name}", shape)

    def _single(self, name: str, outputs: int, inputs: int, *, bias: bool) -> Linear:
        weight = self._take(f"{name}.weight", outputs, inputs)
        return make_linear(weight, self._take(f"{name}.bias", outputs) if bias else None)

    def _fused(self, read: Callable[..., torch.Tensor], inputs: int, *, bias: bool) -> Linear:
        return make_linear(read("weight", inputs), read("bias") if bias else None)

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


@dataclass(frozen=True, slots=True)
class ModelPart:
    """A slice of a model: some neighbouring layers, with what comes before or behind them.

    `embeds`: with the embedding, for the first part. `heads`: with the last norm and the head, for
    the last one.
    """

    layers: range
    embeds: bool = True
    heads: bool = True


class DecoderModel:
    """Computes logits of a packed step and stores its keys and values in the pool.

    Args:
        config: the model's shape. files: its tensors. num_positions: longest sequence.
        device: where it runs. kernels: compiled ones, if there are any.
        part: all of the model by default. The pool has as many layers as the part.
    """

    def __init__(
        self,
        config: ModelConfig,
        files: WeightFiles,
        num_positions: int,
        device: torch.device,
        kernels: PagedDecode | None = None,
        part: ModelPart | None = None,
    ) -> None:
        part = part or ModelPart(range(config.num_layers))
        self._config = config
        self._kernels = kernels
        vocabulary = (config.vocab_size, config.hidden_size)
        tied = config.tied_embeddings
        self._embedding: torch.Tensor | None = None
        if part.embeds or (part.heads and tied):
            self._embedding = files.take("model.embed_tokens.weight", vocabulary)
        self._layers = [LayerReader(config, files, i).read() for i in part.layers]
        self._compute = compute_dtype(files.dtype, device)
        # The sum over all layers costs little in float32 on a CPU, and loses less.
        self.residual_dtype = torch.float32 if device.type == "cpu" else self._compute
        self._norm: torch.Tensor | None = None
        self._head: Linear | None = None
        if part.heads:
            self._norm = files.take("model.norm.weight", (config.hidden_size,))
            head = self._embedding if tied else None
            if head is None:
                head = files.take("lm_head.weight", vocabulary)
            self._head = make_linear(head)
        if not part.embeds:
            self._embedding = None
        self._eps = torch.tensor(config.norm_eps, device=device)
        self._rotations = rotation_table(config.rope, config.head_dim, num_positions, device)

    @property
    def num_bytes(self) -> int:
        """Memory of all weights; those that are kept in two layouts count twice."""
        ends = (self._embedding, self._norm, self._head)
        parts: list[torch.Tensor | Linear] = [part for part in ends if part is not None]
        parts.append(self._rotations)
        for layer in self._layers:
            parts += [layer.input_norm, layer.qkv, layer.output, layer.post_norm]
            parts += [layer.gate_up, layer.down]
        return sum(part.nbytes for part in parts)

    def forward(self, inputs: StepInputs, pool: KvPool) -> torch.Tensor:
        """Logits [rows, vocabulary] of the rows that need them."""
        return self.logits(self.final_states(inputs, pool))

    def final_states(self, inputs: StepInputs, pool: KvPool) -> torch.Tensor:
        """States [rows, hidden] after the last norm, of the rows that need logits."""
        return self._last_norm(self._through_layers(self.embed(inputs), inputs, pool))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of final states; only where the part has the head."""
        assert self._head is not None, "a part without the head"
        return self._head(states)

    def embed(self, inputs: StepInputs) -> torch.Tensor:
        """The first layer's input [T, hidden], in `residual_dtype`; only where the part embeds."""
        assert self._embedding is not None, "a part without the embedding"
        return F.embedding(inputs.tokens, self._embedding).to(self.residual_dtype)

    def run_layers(self, hidden: torch.Tensor, inputs: StepInputs, pool: KvPool) -> torch.Tensor:
        """The part's layers over `hidden`, which they overwrite: the next part's input, or logits
        as `forward` gives them where the part has the head."""
        hidden = self._through_layers(hidden, inputs, pool)
        return hidden if self._head is None else self.logits(self._last_norm(hidden))

    def _through_layers(
        self, hidden: torch.Tensor, inputs: StepInputs, pool: KvPool
    ) -> torch.Tensor:
        """States [rows, hidden] behind the part's last layer; all rows where it has no head."""
        rotations = self._rotations.index_select(0, inputs.positions)
        rows, cut = inputs.last_rows, inputs.last_view
        if self._head is None:
            rows = cut = None
        for index, layer in enumerate(self._layers):
            queries, fresh = self._project(layer, hidden, rotations, inputs, pool, index)
            if cut is not None and rows is not None and index == len(self._layers) - 1:
                # Nobody asks for more of the last layer than the rows with logits: with all keys
                # and values in the pool, they attend as decodes do.
                hidden, queries = hidden.index_select(0, rows), queries.index_select(0, rows)
                if len(rows):
                    mixed = self._attend_decode(queries, layer.window, cut, pool, index)
                    self._advance_(hidden, layer, mixed)
                return hidden
            mixed = self._attend(layer.window, queries, fresh, inputs, pool, index)
            self._advance_(hidden, layer, mixed)
        if rows is not None:
            hidden = hidden.index_select(0, rows)
        return hidden

    def _last_norm(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._norm is not None, "a part without the last norm"
        return self._normalise(hidden, self._norm)

    def _project(
        self,
        layer: Layer,
        hidden: torch.Tensor,
        rotations: torch.Tensor,
        inputs: StepInputs,
        pool: KvPool,
        index: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [T, H, D]; keys and values [T, 2, kv_heads, D], which are in the pool then."""
        c = self._config
        heads = layer.qkv(self._normalise(hidden, layer.input_norm)).view(-1, *self._head_rows())
        turned = heads[:, : c.num_heads + c.num_kv_heads]
        if layer.qk_norm is not None:
            turned.mul_(inverse_rms(turned, self._eps)).mul_(layer.qk_norm)
        rotate_(turned, rotations)
        fresh = heads[:, c.num_heads :].view(-1, 2, c.num_kv_heads, c.head_dim)
        slots = pool.slots[index]
        slots.index_copy_(0, inputs.slots, fresh.to(slots.dtype))
        return heads[:, : c.num_heads], fresh

    def _attend(
        self,
        window: int | None,
        queries: torch.Tensor,
        fresh: torch.Tensor,
        inputs: StepInputs,
        pool: KvPool,
        index: int,
    ) -> torch.Tensor:
        split = inputs.num_prompt_rows
        parts = []
        if inputs.segments:
            segments, blocks = inputs.segments[window], pool.blocks[index]
            parts.append(attend_prefill(queries[:split], fresh[:split], blocks, segments))
        if inputs.decode:
            view = inputs.decode[window]
            parts.append(self._attend_decode(queries[split:], window, view, pool, index))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_decode(
        self,
        queries: torch.Tensor,
        window: int | None,
        view: DecodeView,
        pool: KvPool,
        index: int,
    ) -> torch.Tensor:
        if self._kernels is None:
            return attend_decode(queries, pool.blocks[index], view, self._config.num_kv_heads)
        return self._kernels.paged_decode(
            queries, pool.slots[index], view.tables, view.positions, pool.block_size, window
        )

    def _advance_(self, hidden: torch.Tensor, layer: Layer, mixed: torch.Tensor) -> None:
        """What follows attention in a layer, added to `hidden` in place."""
        hidden.add_(layer.output(mixed))
        gate, up = layer.gate_up(self._normalise(hidden, layer.post_norm)).chunk(2, -1)
        hidden.add_(layer.down(F.silu(gate).mul_(up)))

    def _normalise(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if rows.is_cuda:
            return F.rms_norm(rows, weight.shape, weight, self._config.norm_eps)
        # On a CPU F.rms_norm is a longer chain of small operations than this.
        normed = (rows * inverse_rms(rows, self._eps)).mul_(weight)
        return normed.to(self._compute)

    def _head_rows(self) -> tuple[int, int]:
        c = self._config
        return c.num_heads + 2 * c.num_kv_heads, c.head_dim


def inverse_rms(rows: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(mean of squares + eps) over the last dimension, in float32; `eps` is a scalar."""
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.addcmul(eps, norm, norm, value=1.0 / rows.shape[-1]).rsqrt_()
