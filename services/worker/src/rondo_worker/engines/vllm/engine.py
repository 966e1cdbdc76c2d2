"""The vLLM engine: Rondo's step plans, computed by vLLM's models and kernels.

vLLM's scheduler, its KV block manager and its prefix cache are not used. This module builds vLLM's
executor (worker, model runner, KV tensors) in this process, as `EngineCore` does, and translates
each `StepPlan` into the one `SchedulerOutput` that makes the model runner compute just that: so a
phase is honoured by construction, and every block is where Rondo's ledger put it. A plan larger
than the runner's buffers is computed in several passes.

Differences between the two sides that are bridged here:

* Block 0 is vLLM's null block, which padding may write to: Rondo's block b is vLLM's b + 1.
* A request that starts over (preempted, or on other blocks) is told to vLLM as resumed.
* Seeds: vLLM keeps a generator for each seeded request, which a prompt cut into chunks advances (on
  a CPU it fails there). So requests go to vLLM without a seed, and before a token is drawn its row
  gets a generator seeded with (seed, index of the token), as `rondo.types.Sampling` promises.

All of this is vLLM's private API, so `startup` checks the version, and every name and field that is
used. Read in vLLM 0.32.0: v1/core/sched/output.py, v1/worker/gpu_model_runner.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rondo.errors import EngineError, ModelError
from rondo.policy.plan import PlanItem, StepPlan, plan_of
from rondo.types import Phase, Sampling
from rondo_worker.engines.base import (
    NO_LOGPROBS,
    EngineRequest,
    EngineSpec,
    StepLogprobs,
    UnsupportedRequest,
    refuse_embedding,
)
from rondo_worker.engines.grammar import GrammarTable
from rondo_worker.engines.sequences import LiveSequence, SequenceTable
from rondo_worker.engines.vllm.memory import peak_bytes
from rondo_worker.engines.vllm.results import grammar_output, read_logprobs, sampling_params
from rondo_worker.engines.vllm.rows import resume_rows, seed_of, seed_rows
from rondo_worker.engines.vllm.startup import Runtime, start, use_threads


@dataclass(slots=True, eq=False)
class KnownRequest:
    """A request as vLLM's model runner remembers it: `blocks` are Rondo's numbers."""

    prompt_tokens: int
    computed: int
    blocks: list[int]


class VllmEngine:
    """Decoder-only models with plain attention. Implements `Engine`; built by `load`.

    Args of `load`:
        path: folder in Hugging Face layout.
        model_name: name to serve under; the folder's name by default.
        device: "auto", "cpu" or "cuda": a check only, because a build of vLLM is for one of them.
        dtype: "auto" is the checkpoint's own if that has 16 bits, else bfloat16.
        block_size: tokens in a KV block; vLLM's choice by default (128 on a CPU, where it must be
            a multiple of 32).
        num_blocks: size of the KV pool; else it follows from `kv_memory_bytes`; else on a CPU a
            quarter of what is free but at most 1 GiB, on CUDA what vLLM finds free.
        max_model_len: longest prompt plus answer; by default the model's. Never more than the
            pool holds.
        num_threads: CPU threads, for the whole process; by default what torch chose.
        max_running, max_prefill_tokens: what a step may hold, for the size of vLLM's buffers.
        tensor_parallel, pipeline_parallel: over how many devices; above 1 with child processes.
        compiled: torch.compile and CUDA graphs; None is no on a CPU and yes on CUDA.
    """

    def __init__(self, spec: EngineSpec, runtime: Runtime, folder: Path) -> None:
        self._spec = spec
        self._runtime = runtime
        self._api = runtime.api
        self._executor: Any = runtime.executor
        self._sequences = SequenceTable(spec)
        self._known: dict[str, KnownRequest] = {}
        self._grammars = GrammarTable(folder, spec.vocab_size, spec.eos_token_ids)
        self._logprobs = NO_LOGPROBS
        self._gone: set[str] = set()  # removed here, not yet told to vLLM
        self._seeded = False
        self._thread = 0  # the one that stepped last

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model_name: str | None = None,
        **options: Any,
    ) -> VllmEngine:
        """Reads a model and takes the memory for its KV pool; see the class for the arguments.

        Raises:
            ConfigError: vLLM is not installed, or not the version that this module was written
                for, or an argument makes no sense.
            ModelError: vLLM cannot serve the folder, or not with these options.
        """
        runtime = start(Path(path), **options)
        spec = EngineSpec(
            model=model_name or Path(path).resolve().name,
            engine="vllm",
            max_model_len=min(runtime.max_model_len, runtime.num_blocks * runtime.block_size),
            vocab_size=runtime.vocab_size,
            block_size=runtime.block_size,
            num_blocks=runtime.num_blocks,
            eos_token_ids=runtime.eos_token_ids,
            weight_bytes=runtime.weight_bytes,
            kv_bytes=runtime.kv_bytes,
        )
        engine = cls(spec, runtime, Path(path))
        try:
            engine._first_step()
        except EngineError as error:
            engine.close()
            raise ModelError(str(path), error.problem) from error
        return engine

    @property
    def spec(self) -> EngineSpec:
        """Limits and sizes."""
        return self._spec

    def add(self, request: EngineRequest) -> None:
        """Makes a request known, before its first step."""
        refuse_embedding(request, "vLLM")  # its runner keeps the states on its side
        self._sequences.add(request)
        try:
            self._grammars.add(request)
        except EngineError:
            self._sequences.remove(request.request_id)
            raise

    def remove(self, request_id: str) -> None:
        """Forgets a request; vLLM hears of it with the next step."""
        self._sequences.remove(request_id)
        self._grammars.remove(request_id)
        if self._known.pop(request_id, None):
            self._gone.add(request_id)

    def step(self, plan: StepPlan) -> dict[str, int]:
        """Executes the plan; see `Engine.step`."""
        if self._thread != (thread := threading.get_ident()):
            use_threads(self._runtime.num_threads)
            self._thread = thread
        rows = self._sequences.resolve(plan)
        ids = tuple(item.request_id for item in plan.items)
        by_id = dict(zip(ids, rows, strict=True))
        tokens: dict[str, int] = {}
        self._logprobs = NO_LOGPROBS
        try:
            for items in passes(plan.items, self._runtime.max_tokens, self._runtime.max_rows):
                tokens |= self._run(items, by_id)
        except UnsupportedRequest:
            raise  # one request's fault, found before vLLM was asked
        except EngineError as error:
            raise EngineError(error.problem, ids) from error
        except Exception as error:  # vLLM's own are of every kind, assertions included
            raise EngineError(f"vLLM: {type(error).__name__}: {error}", ids) from error
        return self._sequences.commit(plan, rows, tokens)

    def take_logprobs(self) -> StepLogprobs:
        """What the last step brought; see `Engine.take_logprobs`."""
        taken, self._logprobs = self._logprobs, NO_LOGPROBS
        return taken

    def peak_bytes(self) -> int:
        """Of all of vLLM's workers together; see `Engine.peak_bytes`."""
        return sum(self._executor.collective_rpc(peak_bytes)) if self._executor else 0

    def close(self) -> None:
        """Frees weights and pool; the engine cannot step any more."""
        self._sequences.clear()
        self._grammars.clear()
        self._known.clear()
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def _first_step(self) -> None:
        """Draws one token: what the kernels refuse, or `seed_rows` misses, shows now."""
        self.add(EngineRequest("first-step", (0,), 1, Sampling(temperature=1.0), True))
        self.step(plan_of(Phase.PREFILL, (PlanItem("first-step", 0, 1, [0]),)))
        self.remove("first-step")

    def _run(self, items: Sequence[PlanItem], by_id: dict[str, LiveSequence]) -> dict[str, int]:
        """One pass of the model; the next token of every request that is complete."""
        done = [i for i in items if i.start + i.num_tokens == len(by_id[i.request_id].tokens)]
        drawn = [(i.request_id, by_id[i.request_id]) for i in done]
        masks = grammar_output(self._api, self._grammars, drawn, self._spec.eos_token_ids)
        resumed = self._resumed(items, by_id)
        result = self._executor.execute_model(self._translate(items, by_id))
        if resumed:
            self._executor.collective_rpc(resume_rows, args=(resumed,))
        seeds = {i.request_id: s for i in done if (s := seed_of(by_id[i.request_id])) is not None}
        if seeds or self._seeded:
            self._executor.collective_rpc(seed_rows, args=(seeds,))
            self._seeded = bool(seeds)
        if result is None:  # the runner keeps the logits until it is told to sample
            result = self._executor.sample_tokens(masks)
        index, sampled = result.req_id_to_index, result.sampled_token_ids
        tokens = {i.request_id: sampled[index[i.request_id]] for i in done}
        for request_id, new in tokens.items():
            if len(new) != 1:
                raise EngineError(f"vLLM sampled {len(new)} tokens for {request_id}, expected 1")
        new_logprobs = read_logprobs(result, dict(drawn))
        self._logprobs = self._logprobs.joined(new_logprobs)
        return {request_id: new[0] for request_id, new in tokens.items()}

    def _resumed(self, items: Sequence[PlanItem], by_id: dict[str, LiveSequence]) -> dict[str, int]:
        """Requests that vLLM hears of now, and how much of their answer another instance gave."""
        new = (i.request_id for i in items if i.request_id not in self._known)
        return {r: num for r in new if (num := by_id[r].request.num_resumed)}

    def _translate(self, items: Sequence[PlanItem], by_id: dict[str, LiveSequence]) -> Any:
        """The plan in vLLM's words."""
        new: list[Any] = []
        old = self._api.CachedRequestData.make_empty()
        for item in items:
            row, known = by_id[item.request_id], self._known.get(item.request_id)
            if known is None:
                new.append(self._introduce(item, row))
            else:
                self._continue(old, item, row, known)
        gone, self._gone = self._gone, set()
        return self._api.SchedulerOutput(
            scheduled_new_reqs=new,
            scheduled_cached_reqs=old,
            num_scheduled_tokens={item.request_id: item.num_tokens for item in items},
            total_num_scheduled_tokens=sum(item.num_tokens for item in items),
            scheduled_spec_decode_tokens={},
            scheduled_encoder_inputs={},
            finished_req_ids=gone,
            free_encoder_mm_hashes=[],
        )

    def _introduce(self, item: PlanItem, row: LiveSequence) -> Any:
        blocks = list(item.blocks)
        self._known[item.request_id] = KnownRequest(
            len(row.tokens) - row.request.num_resumed, item.start + item.num_tokens, blocks
        )
        return self._api.NewRequestData(
            req_id=item.request_id,
            prompt_token_ids=list(row.tokens),
            mm_features=[],
            sampling_params=sampling_params(self._api, row.request.sampling),
            pooling_params=None,
            block_ids=(_theirs(blocks),),
            num_computed_tokens=item.start,
            lora_request=None,
        )

    def _continue(self, old: Any, item: PlanItem, row: LiveSequence, known: KnownRequest) -> None:
        before = len(known.blocks)
        if item.start != known.computed or list(item.blocks[:before]) != known.blocks:
            old.resumed_req_ids.add(item.request_id)  # it starts over; its table is replaced
            known.blocks, before = [], 0
        fresh = list(item.blocks[before:])
        known.blocks += fresh
        known.computed = item.start + item.num_tokens
        old.req_ids.append(item.request_id)
        old.new_block_ids.append((_theirs(fresh),) if fresh else None)
        old.num_computed_tokens.append(item.start)
        old.num_output_tokens.append(len(row.tokens) - known.prompt_tokens)
        if self._runtime.stages > 1:  # the first of them do not see what the last one samples
            old.new_token_ids.append(row.tokens[item.start : known.computed])


def passes(items: Sequence[PlanItem], max_tokens: int, max_rows: int) -> Iterator[list[PlanItem]]:
    """The items in groups of at most so many tokens and requests; an item may be cut in two."""
    group: list[PlanItem] = []
    room = max_tokens
    for item in items:
        start, left = item.start, item.num_tokens
        while left:
            if not room or len(group) == max_rows:
                yield group
                group, room = [], max_tokens
            size = min(left, room)
            whole = size == item.num_tokens
            group.append(item if whole else PlanItem(item.request_id, start, size, item.blocks))
            start, left, room = start + size, left - size, room - size
    yield group


def _theirs(blocks: Sequence[int]) -> list[int]:
    return [block + 1 for block in blocks]
