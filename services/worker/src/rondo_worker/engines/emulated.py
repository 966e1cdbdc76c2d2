"""An engine without a model: it takes the time a real one would, and checks its scheduler.

What it emulates: the duration of every step, from a `LatencyProfile`, on the wall clock; a KV pool
of the profile's size; answers that end by themselves. With it a whole cluster of large-GPU
instances runs on one laptop core, at the speed the cluster would have.

What it does not: text (tokens are hashes), sampling parameters (ignored: greedy, so to speak),
variation between equal steps, and contention between instances that share a GPU.

Tokens: the next token is a hash of all tokens before it, mapped to the ordinary ids. So a request
that another instance takes over with its tokens so far goes on as it would have. With probability
1/64, by the same hash, the next token is an end-of-sequence id: answers are geometric with a mean
of 64 tokens, that one included. A request with `ignore_eos` gets ordinary tokens only.

Time: a step ends at its start plus the predicted duration. If the caller came back within 2 ms
(and within the step's duration), it starts where the last one should have ended: the caller's loop
counts as part of the engine, as it does in the measurements that profiles are made from, and a late
wake-up, of up to 50 ms, is made good by the next step. After a longer pause a step starts when it
is called. It sleeps, then spins for at most 0.15 ms.

Measured from one step's end to the next, 16 sequences, decode steps of 7 to 50 ms, on a two-core
machine with a load of 3: the median step is 0.002 ms off, the mean less than 0.01 ms, and the
slowest 1 % are 3 to 5 ms off, which is another process's time slice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rondo.errors import ConfigError, EngineError
from rondo.perf.profile import LatencyProfile
from rondo.policy.plan import StepPlan
from rondo.types import Sampling
from rondo_worker.engines.base import (
    NO_LOGPROBS,
    EngineRequest,
    EngineSpec,
    StepLogprobs,
    UnsupportedRequest,
    refuse_embedding,
)
from rondo_worker.engines.hashing import extend_hash, hash_tokens, mix64
from rondo_worker.engines.hf_config import read_config
from rondo_worker.engines.hf_tokens import ordinary_token_ids
from rondo_worker.engines.kv_shadow import KvShadow
from rondo_worker.engines.memory import process_peak_bytes
from rondo_worker.engines.sequences import SequenceTable

MEAN_ANSWER_TOKENS = 64
LOOP_OVERHEAD_S = 0.002
CATCH_UP_S = 0.05
SPIN_S = 0.00015


class EmulatedEngine:
    """Takes the time of a profile for every step. Implements `Engine`.

    Args:
        spec: limits; its pool is the one that plans are checked against.
        profile: predicts the duration of a step.
        ordinary_token_ids: what answers are made of.
    """

    def __init__(
        self, spec: EngineSpec, profile: LatencyProfile, ordinary_token_ids: Sequence[int]
    ) -> None:
        if not ordinary_token_ids:
            raise ConfigError("ordinary_token_ids", "is empty; there is nothing to answer with")
        self._spec = spec
        self._profile = profile
        self._ordinary = tuple(ordinary_token_ids)
        self._sequences = SequenceTable(spec)
        self._shadow = KvShadow(spec.num_blocks, spec.block_size, self._sequences)
        self._hashes: dict[str, int] = {}
        self._end_s = self._returned_s = float("-inf")

    @classmethod
    def from_model(
        cls,
        path: str | Path,
        profile: LatencyProfile,
        *,
        model_name: str | None = None,
        max_model_len: int | None = None,
        block_size: int | None = None,
        num_blocks: int | None = None,
    ) -> EmulatedEngine:
        """Poses as the model of a Hugging Face folder, whose weights are not read.

        Args:
            path: folder with config.json; with a tokenizer.json answers are readable characters.
            profile: step times, and the KV pool unless `block_size` and `num_blocks` say otherwise.
            model_name: name to serve under; the folder's name by default.
            max_model_len: longest prompt plus answer; the model's own by default, and never more
                than the pool holds.

        Raises:
            ModelError: the folder lacks something or is not supported.
        """
        config = read_config(path)
        size, count = block_size or profile.block_size, num_blocks or profile.num_blocks
        spec = EngineSpec(
            model=model_name or config.folder.resolve().name,
            engine="emulated",
            max_model_len=min(max_model_len or config.max_positions, size * count),
            vocab_size=config.vocab_size,
            block_size=size,
            num_blocks=count,
            eos_token_ids=config.eos_token_ids,
        )
        return cls(spec, profile, ordinary_token_ids(config))

    @property
    def spec(self) -> EngineSpec:
        """Limits and sizes."""
        return self._spec

    def add(self, request: EngineRequest) -> None:
        """Makes a request known, before its first step."""
        refuse_embedding(request, "emulated")
        if missing := _missing(request.sampling):
            raise UnsupportedRequest(missing, "the emulated engine has no probabilities")
        self._sequences.add(request)
        self._hashes[request.request_id] = hash_tokens(request.prompt)

    def remove(self, request_id: str) -> None:
        """Forgets a request."""
        self._shadow.release(request_id)
        self._sequences.remove(request_id)
        self._hashes.pop(request_id, None)

    def step(self, plan: StepPlan) -> dict[str, int]:
        """Executes the plan; see `Engine.step`. Returns when a real engine would.

        Raises:
            EngineError: the plan does not fit the requests' tokens or another request's blocks.
        """
        called_s = time.perf_counter()
        rows = self._sequences.resolve(plan)
        problem = self._shadow.take(plan)
        if problem:
            raise EngineError(problem, tuple(item.request_id for item in plan.items))
        tokens = {
            item.request_id: self._next_token(row.request)
            for item, row in zip(plan.items, rows, strict=True)
            if item.start + item.num_tokens == len(row.tokens)
        }
        self._sequences.commit(plan, rows, tokens)
        self._wait(called_s, self.predicted_s(plan))
        return tokens

    def predicted_s(self, plan: StepPlan) -> float:
        """How long the profile says the step takes."""
        return self._profile.step_s(
            plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
        )

    def take_logprobs(self) -> StepLogprobs:
        """Nothing: requests that ask for them are refused."""
        return NO_LOGPROBS

    def peak_bytes(self) -> int:
        """Of this process: there is nothing else."""
        return process_peak_bytes()

    def close(self) -> None:
        """Forgets everything."""
        for request_id in list(self._hashes):
            self.remove(request_id)

    def _next_token(self, request: EngineRequest) -> int:
        prefix = self._hashes[request.request_id]
        number = mix64(prefix)
        eos = self._spec.eos_token_ids
        if eos and not request.ignore_eos and number % MEAN_ANSWER_TOKENS == 0:
            token = eos[0]
        else:
            token = self._ordinary[number // MEAN_ANSWER_TOKENS % len(self._ordinary)]
        self._hashes[request.request_id] = extend_hash(prefix, token)
        return token

    def _wait(self, called_s: float, duration_s: float) -> None:
        in_loop = called_s - self._returned_s < min(duration_s, LOOP_OVERHEAD_S)
        late_s = called_s - self._end_s
        start_s = self._end_s if in_loop and late_s < CATCH_UP_S else called_s
        self._end_s = start_s + duration_s
        left_s = self._end_s - time.perf_counter()
        if left_s > SPIN_S:
            time.sleep(left_s - SPIN_S)
        while (now_s := time.perf_counter()) < self._end_s:
            pass
        self._returned_s = now_s


def _missing(sampling: Sampling) -> str | None:
    """What is asked for that only a model's probabilities can answer."""
    if sampling.grammar:
        return "grammar"
    if sampling.logprobs is not None:
        return "logprobs"
    return None if sampling.prompt_logprobs is None else "prompt_logprobs"
