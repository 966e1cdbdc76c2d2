"""A prompt from the bus, as the instance scheduler and the engine need it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rondo.errors import DecodeError, EngineError
from rondo.policy.plan import Job
from rondo.prefix import block_names
from rondo.wire.codec import unpack_tokens
from rondo.wire.messages import Run
from rondo_worker.engines.base import EngineRequest


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads prompts of an instance.

    Args:
        share_block_size: of KV blocks whose contents are named, to be shared; None: they are not.
    """

    max_model_len: int
    share_block_size: int | None

    def read(self, run: Run) -> tuple[Job, EngineRequest]:
        """What to schedule, and what to compute.

        Raises:
            EngineError: the prompt is unreadable or too long; names the request.
        """
        try:
            prompt = tuple(unpack_tokens(run.prompt))
        except DecodeError as error:
            raise EngineError(str(error), (run.request_id,)) from error
        room = self.max_model_len - len(prompt)
        if room < 1 or run.max_tokens < 1:
            problem = "the prompt leaves no room for an answer"
            raise EngineError(problem, (run.request_id,))
        max_tokens = min(run.max_tokens, room)
        job = Job(
            request_id=run.request_id,
            prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            predicted_tokens=run.predicted_tokens,
            slo=run.slo,
            arrival_s=time.monotonic() - run.age_s,
            ignore_eos=run.ignore_eos,
            background=run.background,
        )
        self._name_blocks(job, run, prompt)
        request = EngineRequest(
            request_id=run.request_id,
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=run.sampling,
            ignore_eos=run.ignore_eos,
            num_resumed=run.num_resumed,
        )
        return job, request

    def _name_blocks(self, job: Job, run: Run, prompt: tuple[int, ...]) -> None:
        size = self.share_block_size
        # A shared block is not computed, so there would be no logprobs of its tokens.
        if size is not None and run.sampling.prompt_logprobs is None:
            job.block_names = block_names(prompt, size)
            job.tail = list(prompt[len(job.block_names) * size :])
