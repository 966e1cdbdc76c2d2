"""What goes into vLLM's sampler beside logits, and what comes out beside tokens.

Masks are Rondo's own (`engines.grammar`), in the form of vLLM's structured outputs; logprobs are
vLLM's. Read in vLLM 0.32.0: v1/structured_output/utils.py, v1/outputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rondo.logprobs import Logprobs
from rondo.types import Sampling
from rondo_worker.engines.base import StepLogprobs
from rondo_worker.engines.grammar import GrammarTable
from rondo_worker.engines.sequences import LiveSequence


def sampling_params(api: Any, sampling: Sampling) -> Any:
    """As vLLM takes them; no seed (see the module) and nothing that would end an answer."""
    return api.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        max_tokens=1,
        ignore_eos=True,
        detokenize=False,
    )


def grammar_output(
    api: Any,
    grammars: GrammarTable,
    done: Sequence[tuple[str, LiveSequence]],
    eos_token_ids: Sequence[int],
) -> Any:
    """The masks of the requests that have one, for `sample_tokens`; None if no request has.

    A minimal length is a mask too: vLLM's own needs to know when an answer will end, which only
    Rondo's scheduler does.
    """
    masked = [(r, row) for r, row in done if r in grammars or _too_short(row)]
    if not masked:
        return None
    width = grammars.width
    lines = []
    for request_id, row in masked:
        if request_id in grammars:
            lines.append(grammars.mask([(request_id, row)])[0])
        else:
            banned = [*eos_token_ids, *row.request.sampling.stop_token_ids]
            lines.append(_all_but(banned, width))
    return api.GrammarOutput(
        structured_output_request_ids=[request_id for request_id, _ in masked],
        grammar_bitmask=np.stack(lines),
    )


def read_logprobs(result: Any, done: Mapping[str, LiveSequence]) -> StepLogprobs:
    """The logprobs of a `ModelRunnerOutput` for the requests that want them."""
    tokens: dict[str, Logprobs] = {}
    for request_id, row in done.items():
        wanted = row.request.sampling.logprobs
        if wanted is not None and result.logprobs is not None:
            index = result.req_id_to_index[request_id]
            part = slice(index, index + 1)
            table = result.logprobs
            tokens[request_id] = _packed(
                table.logprobs[part], table.logprob_token_ids[part], wanted
            )
    prompts: dict[str, Logprobs] = {}
    for request_id, table in result.prompt_logprobs_dict.items():
        if table is not None and request_id in done and len(table.logprobs):
            wanted = done[request_id].request.sampling.prompt_logprobs or 0
            ids = table.logprob_token_ids.numpy()
            prompts[request_id] = _packed(table.logprobs.numpy(), ids, wanted)
    return StepLogprobs(tokens, prompts)


def _packed(values: Any, ids: Any, num_top: int) -> Logprobs:
    """vLLM's columns: the token itself, then the best."""
    best = slice(1, 1 + num_top)
    return Logprobs(
        num_top,
        np.ascontiguousarray(values[:, 0], dtype="<f4").tobytes(),
        np.ascontiguousarray(ids[:, best], dtype="<i4").tobytes(),
        np.ascontiguousarray(values[:, best], dtype="<f4").tobytes(),
    )


def _too_short(row: LiveSequence) -> bool:
    return row.num_output < row.request.sampling.min_tokens


def _all_but(banned: Sequence[int], width: int) -> Any:
    bits = np.full(width * 32, True)
    bits[list(banned)] = False
    return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)
