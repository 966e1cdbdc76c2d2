r"""Answers in OpenAI's shape, as bytes.

Surface: `chat_completion`, `text_completion`, `usage`, `model_card`, `model_list` for whole
bodies; `ChunkEncoder` and `DONE` for streams. A `ChunkEncoder` frame is a complete server-sent
event, ``data: {...}\n\n``; a stream is the role chunk of each choice (chat only), its contents,
its finish, the usage if asked for, and `DONE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from rondo.types import FinishReason

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode
#: Legal inside JSON text, but line ends to clients that split a stream with str.splitlines().
_LINE_ENDS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")


class Kind(Enum):
    """The two kinds of answers."""

    CHAT = "chat"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer of a body."""

    index: int
    text: str
    finish: FinishReason


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chat_completion(
    response_id: str, model: str, created: int, choices: Sequence[Choice], used: dict[str, int]
) -> bytes:
    """Return the body of a whole chat answer."""
    answers = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": None,
            "finish_reason": choice.finish.value,
        }
        for choice in choices
    ]
    head = _head(response_id, "chat.completion", created, model)
    return _encode({**head, "choices": answers, "usage": used})


def text_completion(
    response_id: str, model: str, created: int, choices: Sequence[Choice], used: dict[str, int]
) -> bytes:
    """Return the body of a whole text completion."""
    answers = [
        {
            "index": choice.index,
            "text": choice.text,
            "logprobs": None,
            "finish_reason": choice.finish.value,
        }
        for choice in choices
    ]
    head = _head(response_id, "text_completion", created, model)
    return _encode({**head, "choices": answers, "usage": used})


def model_card(name: str, created: int, max_model_len: int) -> dict[str, Any]:
    """Return the object of GET /v1/models/{name}; `max_model_len` is an addition, as in vLLM."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "rondo",
        "max_model_len": max_model_len,
    }


def model_list(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the object of GET /v1/models."""
    return {"object": "list", "data": list(cards)}


class ChunkEncoder:
    """Encodes the frames of one stream. What all its chunks share is encoded once.

    Args:
        kind: chat or text.
        response_id: the same in every chunk.
        include_usage: whether the stream ends with a usage chunk; the others then say null.
    """

    def __init__(
        self,
        kind: Kind,
        response_id: str,
        model: str,
        created: int,
        *,
        include_usage: bool = False,
    ) -> None:
        chat = kind is Kind.CHAT
        name = "chat.completion.chunk" if chat else "text_completion"
        head = _encode_line(_head(response_id, name, created, model))
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._before = b',"delta":{"content":' if chat else b',"text":'
        self._after = (b"}" if chat else b"") + b',"logprobs":null,"finish_reason":null}'
        self._nothing = b',"delta":{}' if chat else b',"text":""'
        self._after += self._tail
        self._prefixes: dict[int, bytes] = {}

    def role(self, index: int) -> bytes:
        """Return the first chunk of a chat choice."""
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return self._choice(index) + delta + self._tail

    def content(self, index: int, text: str) -> bytes:
        """Return a chunk with new text of a choice."""
        prefix = self._prefixes.get(index)
        if prefix is None:
            prefix = self._prefixes[index] = self._choice(index) + self._before
        return prefix + _encode_line(text) + self._after

    def finish(self, index: int, reason: FinishReason) -> bytes:
        """Return the last chunk of a choice."""
        end = b',"logprobs":null,"finish_reason":"%s"}' % reason.value.encode()
        return self._choice(index) + self._nothing + end + self._tail

    def usage(self, used: dict[str, int]) -> bytes:
        """Return the usage chunk, which has no choices."""
        return self._head + b'],"usage":' + _encode(used) + b"}\n\n"

    def _choice(self, index: int) -> bytes:
        return self._head + b'{"index":%d' % index


def _head(response_id: str, name: str, created: int, model: str) -> dict[str, Any]:
    return {"id": response_id, "object": name, "created": created, "model": model}


def _encode_line(value: Any) -> bytes:
    """Return JSON that is one line to every client."""
    encoded = _encode(value)
    if not encoded.isascii():
        for char, escape in _LINE_ENDS:
            encoded = encoded.replace(char, escape)
    return encoded
