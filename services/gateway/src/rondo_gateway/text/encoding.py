"""From text to token ids without holding up the event loop.

Surface: `encode(tokenizer, text, add_special_tokens=...)`. A rendered chat template carries its
own BOS token, so chats pass False; completions pass True.
"""

from __future__ import annotations

import asyncio

from tokenizers import Tokenizer

#: Texts up to this length take some two milliseconds at most and stay on the event loop.
_INLINE_CHARS = 2_000


async def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Return the token ids of `text`."""
    if len(text) <= _INLINE_CHARS:
        return encode_now(tokenizer, text, add_special_tokens)
    return await asyncio.to_thread(encode_now, tokenizer, text, add_special_tokens)


def encode_now(tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Return the token ids of `text`, in the calling thread.

    A batch of one: unlike `Tokenizer.encode` it releases the GIL, and it computes no offsets.
    """
    [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return encoding.ids
