"""What happens to rows of vLLM's batch between the model's pass and sampling, in its workers.

The functions are sent to vLLM's workers by `collective_rpc`. Read in vLLM 0.32.0:
v1/worker/gpu_model_runner.py, v1/worker/gpu_input_batch.py.
"""

from __future__ import annotations

from typing import Any

from rondo_worker.engines.hashing import mix64
from rondo_worker.engines.sequences import LiveSequence


def seed_rows(worker: Any, seeds: dict[str, int]) -> None:
    """Gives the rows of these requests their generators, no other row."""
    import torch

    runner = worker.model_runner
    batch = runner.input_batch
    batch.generators.clear()
    for request_id, seed in seeds.items():
        generator = torch.Generator(device=runner.device)
        batch.generators[batch.req_id_to_index[request_id]] = generator.manual_seed(seed)


def resume_rows(worker: Any, given: dict[str, int]) -> None:
    """The last so many prompt tokens of new requests belong to the answer, for its penalties."""
    runner = worker.model_runner
    batch = runner.input_batch
    for request_id, count in given.items():
        state = runner.requests[request_id]
        prompt = state.prompt_token_ids
        state.prompt_token_ids = prompt[:-count]
        state.num_prompt_tokens -= count
        state.output_token_ids[:0] = prompt[-count:]  # in place: the batch has the same list
        batch.num_prompt_tokens[batch.req_id_to_index[request_id]] -= count


def seed_of(row: LiveSequence) -> int | None:
    """For the request's next token; None where nothing is drawn."""
    sampling = row.request.sampling
    if sampling.temperature == 0.0:
        return None
    return mix64(mix64(sampling.seed & (1 << 64) - 1) + row.num_output) >> 1
