"""From one prompt as a client gives it, a text or token ids, to checked token ids."""

from __future__ import annotations

from collections.abc import Sequence

from rondo_gateway.errors import invalid
from rondo_gateway.limits import check_token_ids
from rondo_gateway.text.encoding import encode
from rondo_gateway.text.model_files import ModelFiles


async def prompt_ids(
    model: ModelFiles,
    given: str | Sequence[int],
    *,
    add_special_tokens: bool,
    param: str = "prompt",
) -> list[int]:
    """The token ids of a prompt; `param` is its field.

    Raises:
        ApiError: 400, it is empty, or has an id outside the model's vocabulary.
    """
    if not given:  # even where the tokenizer would add a first token of its own
        raise invalid(f"The {param} is empty.", param)
    if isinstance(given, str):
        return await encode(model.tokenizer, given, add_special_tokens=add_special_tokens)
    check_token_ids(given, model.vocab_size, param=param)
    return list(given)
