"""The torch engine: executes step plans on CPU or CUDA with a paged KV pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from rondo.errors import EngineError
from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import EngineRequest, EngineSpec, StepLogprobs
from rondo_worker.engines.hf_config import read_config
from rondo_worker.engines.memory import process_peak_bytes
from rondo_worker.engines.sequences import LiveSequence, SequenceTable
from rondo_worker.engines.torch.batch import BatchBuilder
from rondo_worker.engines.torch.embeddings import embeddings_of
from rondo_worker.engines.torch.graphs import DecodeGraphs, record_decodes
from rondo_worker.engines.torch.kv_pool import KvPool, choose_num_blocks
from rondo_worker.engines.torch.linear import compute_dtype
from rondo_worker.engines.torch.model import DecoderModel
from rondo_worker.engines.torch.native import load_kernels
from rondo_worker.engines.torch.options import (
    choose_device,
    choose_dtype,
    limit_model_len,
    set_threads,
    use_device,
)
from rondo_worker.engines.torch.sampler_step import StepSampler
from rondo_worker.engines.torch.weights import WeightFiles


class TorchEngine:
    """Dense Llama-like models. Implements `Engine`; built by `load`, from these arguments.

    Args:
        path: folder with config.json and safetensors weights.
        model_name: name to serve under; the folder's name by default.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" is bfloat16 on CUDA and on CPUs that multiply it themselves (AMX, AVX-512
            BF16), else float32.
        block_size: tokens in a KV block.
        num_blocks: size of the KV pool; else it follows from `kv_memory_bytes`; else from what is
            free after loading: 85 % of it on CUDA, on a CPU 25 % but at most 1 GiB. More than
            requests in flight times their length is of no use; it is not bounded here, because
            the engine does not know how many requests will be in flight.
        max_model_len: longest prompt plus answer; by default what the model was made for. Never
            more than the pool holds.
        num_threads: torch's CPU threads, for the whole process. By default one for a model of
            less than 100 million parameters on a CPU, else what torch chose.
        native: use a compiled kernel for decode attention: C++ on a CPU where a compiler is found,
            Triton on CUDA. Without one torch does the same, slower.
        graphs: record decode steps as CUDA graphs; needs the Triton kernel, no effect on a CPU.
    """

    def __init__(
        self,
        spec: EngineSpec,
        model: DecoderModel,
        pool: KvPool,
        batch: BatchBuilder,
        sampler: StepSampler,
        graphs: DecodeGraphs | None = None,
    ):
        self._spec = spec
        self._model: DecoderModel | None = model
        self._pool: KvPool | None = pool
        self._batch = batch
        self._sampler = sampler
        self._graphs = graphs
        self._sequences = SequenceTable(spec)
        self._last: tuple[tuple[str, ...], torch.Tensor] | None = None
        self._embeddings: dict[str, bytes] = {}  # that the last step brought

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        block_size: int = 16,
        num_blocks: int | None = None,
        kv_memory_bytes: int | None = None,
        max_model_len: int | None = None,
        num_threads: int | None = None,
        native: bool = True,
        graphs: bool = True,
    ) -> TorchEngine:
        """Reads a Hugging Face folder and takes the memory for its KV pool; see the class.

        Raises:
            ModelError: the folder lacks something or is not supported.
            ConfigError: an argument makes no sense.
        """
        config = read_config(path)
        place = choose_device(device)
        use_device(place)
        number = choose_dtype(dtype, place)
        set_threads(num_threads, config, place)
        longest = limit_model_len(config, max_model_len)
        kernels = load_kernels(place, number) if native else None
        files = WeightFiles(config.folder, place, number)
        model = DecoderModel(config, files, longest, place, kernels)
        count = choose_num_blocks(config, block_size, number, place, num_blocks, kv_memory_bytes)
        recorded = graphs and place.type == "cuda" and kernels is not None
        pool = KvPool(config, count, block_size, place, number, spare=recorded)
        spec = EngineSpec(
            model=model_name or config.folder.resolve().name,
            engine="torch",
            max_model_len=min(longest, count * block_size),
            vocab_size=config.vocab_size,
            block_size=block_size,
            num_blocks=count,
            eos_token_ids=config.eos_token_ids,
            weight_bytes=model.num_bytes,
            kv_bytes=pool.num_bytes,
        )
        trim = kernels is None
        asks = compute_dtype(number, place)
        batch = BatchBuilder(config.windows, block_size, place, asks, trim_tables=trim)
        steps = (
            record_decodes(model, pool, config.windows, spec.max_model_len) if recorded else None
        )
        return cls(spec, model, pool, batch, StepSampler(spec, config.folder), steps)

    @property
    def spec(self) -> EngineSpec:
        """Limits and sizes."""
        return self._spec

    @property
    def last_logits(self) -> dict[str, torch.Tensor]:
        """Raw logits of the last step's completed sequences, by request id; for tests and tools."""
        if self._last is None:
            return {}
        ids, logits = self._last
        return dict(zip(ids, logits, strict=True))

    def add(self, request: EngineRequest) -> None:
        """Makes a request known, before its first step."""
        self._sequences.add(request)
        try:
            self._sampler.add(request)
        except EngineError:
            self._sequences.remove(request.request_id)
            raise

    def remove(self, request_id: str) -> None:
        """Forgets a request."""
        self._sequences.remove(request_id)
        self._sampler.remove(request_id)

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> dict[str, int]:
        """Executes the plan; see `Engine.step`."""
        rows = self._sequences.resolve(plan)
        ids = tuple(item.request_id for item in plan.items)
        try:
            tokens = self._compute(plan, rows)
        except (RuntimeError, IndexError) as error:  # torch's own, out of memory included
            raise EngineError(f"torch: {error}", ids) from error
        return self._sequences.commit(plan, rows, tokens)

    def take_logprobs(self) -> StepLogprobs:
        """What the last step brought; see `Engine.take_logprobs`."""
        brought, embeddings = self._sampler.take_logprobs(), self._embeddings
        self._embeddings = {}
        return replace(brought, embeddings=embeddings) if embeddings else brought

    def peak_bytes(self) -> int:
        """Allocated on the CUDA device, or resident in this process; see `Engine.peak_bytes`."""
        if self._pool is None:
            return 0
        device = self._pool.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return process_peak_bytes()

    def close(self) -> None:
        """Frees weights and pool; the engine cannot step any more."""
        self._sequences.clear()
        self._sampler.clear()
        self._model = self._pool = self._last = self._graphs = None

    def _compute(self, plan: StepPlan, rows: list[LiveSequence]) -> dict[str, int]:
        if self._model is None or self._pool is None:
            raise EngineError("the engine is closed")
        use_device(self._pool.device)
        self._embeddings = {}
        inputs = self._batch.build(plan.chunks, plan.decodes, rows)
        logits = self._graphs.run(inputs) if self._graphs and not plan.chunks else None
        if logits is None:
            if any(row.request.sampling.embed for row in rows[: len(plan.chunks)]):
                states = self._model.final_states(inputs, self._pool)
                self._embeddings = embeddings_of(plan, rows, states)
                logits = self._model.logits(states)
            else:
                logits = self._model.forward(inputs, self._pool)
        chosen, chosen_logits = self._sampler.choose(plan, rows, logits)
        self._last = tuple(chosen), chosen_logits
        return chosen
