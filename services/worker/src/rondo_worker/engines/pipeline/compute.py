"""A stage's share of the model: its layers, its KV pool, and on the last stage the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rondo.errors import EngineError
from rondo.policy.plan import PlanItem, StepPlan
from rondo_worker.engines.base import EngineRequest, EngineSpec, StepLogprobs
from rondo_worker.engines.hf_config import read_config
from rondo_worker.engines.pipeline.link import Packet
from rondo_worker.engines.pipeline.messages import StageOptions, Step
from rondo_worker.engines.sequences import LiveSequence
from rondo_worker.engines.torch.batch import BatchBuilder
from rondo_worker.engines.torch.kv_pool import KvPool, choose_num_blocks
from rondo_worker.engines.torch.linear import compute_dtype
from rondo_worker.engines.torch.model import DecoderModel, ModelPart
from rondo_worker.engines.torch.native import load_kernels
from rondo_worker.engines.torch.sampler_step import StepSampler
from rondo_worker.engines.torch.weights import WeightFiles

#: A step's part as the engine's own classes take it.
Prepared = tuple[StepPlan, list[LiveSequence]]


class StageCompute:
    """Computes a stage's part of each step, with the classes of the torch engine.

    Every stage follows the tokens of all requests, as the controller tells them.

    Raises:
        ModelError: the folder lacks something.
    """

    def __init__(self, options: StageOptions) -> None:
        self.device = torch.device(options.device)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._options = options
        whole = read_config(options.folder)
        layers = range(*options.layers)
        self._first = options.stage == 0
        self.is_last = options.stage == options.num_stages - 1
        """Whether tokens are sampled here."""
        kernels = load_kernels(self.device, self._dtype) if options.native else None
        files = WeightFiles(Path(options.folder), self.device, self._dtype)
        part = ModelPart(layers, embeds=self._first, heads=self.is_last)
        longest = options.max_model_len
        self._model = DecoderModel(whole, files, longest, self.device, kernels, part)
        own = whole.windows[layers.start : layers.stop]
        self.config = replace(whole, num_layers=len(layers), windows=own)
        self._batch = BatchBuilder(
            own,
            options.block_size,
            self.device,
            compute_dtype(self._dtype, self.device),
            trim_tables=kernels is None,
        )
        self._pool: KvPool | None = None
        self._sampler: StepSampler | None = None
        self._live: dict[str, LiveSequence] = {}

    @property
    def weight_bytes(self) -> int:
        """What the stage's weights take."""
        return self._model.num_bytes

    @property
    def residual_dtype(self) -> torch.dtype:
        """The type of activations between stages."""
        return self._model.residual_dtype

    def take_pool(self, num_blocks: int) -> int:
        """Takes memory for the stage's layers of so many blocks; how much, in bytes.

        Raises:
            ConfigError: it is not free.
        """
        size = self._options.block_size
        asked = (self.config, size, self._dtype, self.device, num_blocks, None)
        self._pool = KvPool(self.config, choose_num_blocks(*asked), size, self.device, self._dtype)
        if self.is_last:
            folder = Path(self._options.folder)
            self._sampler = StepSampler(self._spec(num_blocks), folder)
        return self._pool.num_bytes

    def add(self, request: EngineRequest) -> None:
        """A request, which the controller has checked."""
        self._live[request.request_id] = LiveSequence.begin(request)
        if self._sampler:
            self._sampler.add(request)

    def remove(self, request_id: str) -> None:
        """A request is over."""
        self._live.pop(request_id, None)
        if self._sampler:
            self._sampler.remove(request_id)

    def prepare(self, step: Step) -> Prepared:
        """The step as a plan, with its sequences as they are by now."""
        rows = []
        for item in step.items:
            row = self._live[item.request_id]
            for token in item.drawn:
                row.append(token)
            rows.append(row)
        items = [PlanItem(i.request_id, i.start, i.num_tokens, i.blocks) for i in step.items]
        decodes = items[step.num_chunks :]
        plan = StepPlan(
            step.phase, items[: step.num_chunks], len(decodes), list_decodes=lambda: decodes
        )
        return plan, rows

    def compute(
        self, prepared: Prepared, packet: Packet
    ) -> tuple[dict[str, int], StepLogprobs | None]:
        """Computes the stage's part of a step; on the last stage the tokens that came out.

        `packet` has the activations of the stage before; they are overwritten by this one's. The
        first stage fills an empty one.

        Raises:
            EngineError: it cannot be computed.
        """
        plan, rows = prepared
        if self._pool is None:
            raise EngineError("the stage has no pool yet")
        try:
            inputs = self._batch.build(plan.chunks, plan.decodes, rows)
            hidden = packet.rows
            if self._first:
                hidden.copy_(self._model.embed(inputs))
            logits = self._model.run_layers(hidden, inputs, self._pool)
            if self._sampler is None:
                return {}, None
            tokens, _ = self._sampler.choose(plan, rows, logits)
        except (RuntimeError, IndexError) as error:  # torch's own, out of memory included
            raise EngineError(f"torch: {error}") from error
        brought = self._sampler.take_logprobs()
        return tokens, brought if brought.tokens or brought.prompts else None

    def _spec(self, num_blocks: int) -> EngineSpec:
        return EngineSpec(
            model="",
            engine="pipeline",
            max_model_len=self._options.max_model_len,
            vocab_size=self.config.vocab_size,
            block_size=self._options.block_size,
            num_blocks=num_blocks,
            eos_token_ids=self.config.eos_token_ids,
        )
