"""The engines that are compared, each behind the same method: run a case, say how long it took."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import Phase, Sampling, Slo
from rondo_bench.engines.cases import Case
from rondo_worker.engines.base import Engine, EngineRequest

#: What every side may have in flight, and prefill in one step.
MAX_RUNNING = 64
MAX_PREFILL_TOKENS = 4096

Prompts = Sequence[Sequence[int]]


class Side(Protocol):
    """One engine with the model loaded."""

    def run(self, case: Case, prompts: Prompts) -> float:
        """Runs a case with these prompts, greedily; returns seconds on the clock."""
        ...


class RondoSide:
    """An engine of Rondo under Rondo's instance scheduler, as a worker runs it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, case: Case, prompts: Prompts) -> float:
        """See `Side`."""
        scheduler = self._scheduler()
        started_s = time.perf_counter()
        self._submit(scheduler, prompts, case.steps + (case.kind == "decode"))
        prefilling = case.kind == "decode"
        while (plan := scheduler.plan(0.0)) is not None:
            if prefilling and plan.phase is Phase.DECODE:
                started_s, prefilling = time.perf_counter(), False
            outcome = scheduler.commit(plan, self._engine.step(plan))
            for finished in outcome.finished:
                self._engine.remove(finished.request_id)
        return time.perf_counter() - started_s

    def _scheduler(self) -> InstanceScheduler:
        spec = self._engine.spec
        return InstanceScheduler(
            KvLedger(spec.num_blocks, spec.block_size),
            max_running=MAX_RUNNING,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
        )

    def _submit(self, scheduler: InstanceScheduler, prompts: Prompts, max_tokens: int) -> None:
        ids = [f"r{number}" for number in range(len(prompts))]
        for request_id, prompt in zip(ids, prompts, strict=True):
            self._engine.add(
                EngineRequest(request_id, tuple(prompt), max_tokens, Sampling(temperature=0), True)
            )
            job = Job(
                request_id=request_id,
                prompt_tokens=len(prompt),
                max_tokens=max_tokens,
                predicted_tokens=max_tokens,
                slo=Slo(ttft_s=60.0, tpot_s=60.0),
                arrival_s=0.0,
                ignore_eos=True,
            )
            problem = scheduler.add(job)
            assert problem is None, problem  # the pool is sized for every case
        scheduler.grant(1, ids, 1e9, 0.0)


class TransformersSide:
    """Hugging Face transformers: a padless batch, its own cache, greedy."""

    def __init__(self, folder: Path, dtype: str) -> None:
        # By name, because nothing else of the benchmarks may depend on torch.
        self._torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(self._torch, dtype), attn_implementation="sdpa"
        ).eval()

    def run(self, case: Case, prompts: Prompts) -> float:
        """See `Side`."""
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(prompt) for prompt in prompts])
            started_s = time.perf_counter()
            ids, cache = self._step(ids, None)
            if case.kind == "decode":
                started_s = time.perf_counter()
                for _ in range(case.steps):
                    ids, cache = self._step(ids, cache)
            return time.perf_counter() - started_s

    def _step(self, ids: Any, cache: Any) -> tuple[Any, Any]:
        out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        chosen = out.logits[:, -1].argmax(-1, keepdim=True)
        chosen.tolist()  # a server must look at every token
        return chosen, out.past_key_values


class VllmSide:
    """Plain vLLM in this process with its own scheduler, without compilation."""

    def __init__(self, folder: Path, dtype: str, pool_tokens: int, block_size: int) -> None:
        vllm = importlib.import_module("vllm")
        self._params = vllm.SamplingParams
        self._deltas = importlib.import_module("vllm.sampling_params").RequestOutputKind.DELTA
        self._engine = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            enforce_eager=True,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            block_size=block_size,
            num_gpu_blocks_override=pool_tokens // block_size + 1,
            kv_cache_memory_bytes=1 << 30,
            max_num_seqs=MAX_RUNNING,
            max_num_batched_tokens=MAX_PREFILL_TOKENS + MAX_RUNNING,
            disable_log_stats=True,
        ).llm_engine

    def run(self, case: Case, prompts: Prompts) -> float:
        """See `Side`."""
        wanted = case.steps + (case.kind == "decode")
        params = self._params(
            temperature=0.0,
            max_tokens=wanted,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._deltas,
        )
        started_s = time.perf_counter()
        for number, prompt in enumerate(prompts):
            self._engine.add_request(f"r{number}", {"prompt_token_ids": list(prompt)}, params)
        prefilling, begun = case.kind == "decode", set[str]()
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            begun |= {out.request_id for out in outputs}
            if prefilling and len(begun) == len(prompts):
                started_s, prefilling = time.perf_counter(), False
        return time.perf_counter() - started_s
