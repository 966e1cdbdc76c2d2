"""Checks of a tokenised prompt against the model.

Surface: `output_limit`, `check_prompt_logprobs` and `check_token_ids`; all raise `ApiError` (400).
"""

from __future__ import annotations

from collections.abc import Sequence

from rondo_gateway.errors import ApiError, invalid

#: What logprobs of one prompt may take on the bus, well below its largest message.
MAX_PROMPT_LOGPROBS_BYTES = 4 * 2**20


def output_limit(
    prompt_tokens: int,
    max_tokens: int | None,
    max_model_len: int,
    *,
    default: int | None = None,
    min_tokens: int = 0,
    prompt_param: str = "messages",
    limit_param: str = "max_tokens",
) -> int:
    """Return how many tokens the answer may have; prompt and answer share the context.

    An explicit `max_tokens` that does not fit is a 400, as with vLLM and OpenAI, since a shorter
    answer than asked for would pass unnoticed. Without one the rest of the context is the limit,
    or `default` where that is less.
    """
    if prompt_tokens == 0:
        raise invalid("The prompt has no tokens.", prompt_param)
    rest = max_model_len - prompt_tokens
    if rest <= 0:
        raise _too_long(
            f"This model's maximum context length is {max_model_len} tokens, but the prompt has "
            f"{prompt_tokens} tokens and needs room for at least one more.",
            prompt_param,
        )
    if max_tokens is None:
        max_tokens = rest if default is None else min(default, rest)
    if min_tokens > max_tokens:
        message = f"'min_tokens' is {min_tokens}, but the answer may have {max_tokens} tokens."
        raise invalid(message, "min_tokens")
    if max_tokens > rest:
        raise _too_long(
            f"This model's maximum context length is {max_model_len} tokens, but "
            f"{prompt_tokens + max_tokens} were requested: {prompt_tokens} in the prompt and "
            f"{max_tokens} for the answer.",
            limit_param,
        )
    return max(1, max_tokens)  # a mere echo needs a step of the engine all the same


def check_prompt_logprobs(prompt_tokens: int, num_top: int | None) -> None:
    """Refuse an echo whose logprobs would not fit into one message of the bus."""
    if num_top is not None and prompt_tokens * (4 + 8 * num_top) > MAX_PROMPT_LOGPROBS_BYTES:
        message = (
            f"The logprobs of a prompt of {prompt_tokens} tokens with {num_top} alternatives each "
            "are too many for one answer; ask for fewer alternatives."
        )
        raise invalid(message, "logprobs")


def check_token_ids(ids: Sequence[int], vocab_size: int, *, param: str = "prompt") -> None:
    """Refuse a prompt given as ids when one of them is outside the model's vocabulary."""
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise invalid(f"Token ids must be from 0 to {vocab_size - 1}.", param)


def _too_long(message: str, param: str) -> ApiError:
    return invalid(message, param, "context_length_exceeded")
