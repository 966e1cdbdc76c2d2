r"""Answers in OpenAI's shape, as bytes.

Surface: `chat_completion`, `text_completion`, `usage`, `model_card`, `model_list` for whole
bodies; `ChunkEncoder` and `DONE` for streams. A `ChunkEncoder` frame is a complete server-sent
event, ``data: {...}\n\n``; a stream is the role chunk of each choice (chat only), its contents,
its finish, the usage if asked for, and `DONE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from rondo_gateway.text.tool_parsers import Delta, ToolDelta

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode
#: Legal inside JSON text, but line ends to clients that split a stream with str.splitlines().
_LINE_ENDS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")


class Kind(Enum):
    """The kinds of answers."""

    CHAT = "chat"
    TEXT = "text"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class Head:
    """What every body and chunk of one response begins with. `fingerprint` names the model's
    files and this version: with the same seed, answers are the same while it is."""

    response_id: str
    created: int
    model: str
    fingerprint: str | None = None

    def fields(self, name: str) -> dict[str, Any]:
        """Return the JSON fields; `name` is the object's."""
        return {
            "id": self.response_id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer of a body; `finish` is OpenAI's word."""

    index: int
    text: str
    finish: str
    logprobs: dict[str, Any] | None = None
    tool_calls: Sequence[dict[str, Any]] = ()

    def message(self) -> dict[str, Any]:
        """Return a chat's message; one that only calls tools has no content."""
        content = None if self.tool_calls and not self.text else self.text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        return message


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Return the usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chat_completion(head: Head, choices: Sequence[Choice], used: dict[str, Any]) -> bytes:
    """Return the body of a whole chat answer."""
    answers = [
        {
            "index": choice.index,
            "message": choice.message(),
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish,
        }
        for choice in choices
    ]
    return _encode({**head.fields("chat.completion"), "choices": answers, "usage": used})


def text_completion(head: Head, choices: Sequence[Choice], used: dict[str, Any]) -> bytes:
    """Return the body of a whole text completion."""
    answers = [
        {
            "index": choice.index,
            "text": choice.text,
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish,
        }
        for choice in choices
    ]
    return _encode({**head.fields("text_completion"), "choices": answers, "usage": used})


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a tool call of a message; `arguments` is JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


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
        head: the same in every chunk.
        include_usage: whether the stream ends with a usage chunk; the others then say null.
    """

    def __init__(self, kind: Kind, head: Head, *, include_usage: bool = False) -> None:
        chat = kind is Kind.CHAT
        name = "chat.completion.chunk" if chat else "text_completion"
        self._head = b"data: " + encode_line(head.fields(name))[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._before = b',"delta":{"content":' if chat else b',"text":'
        self._after = b"}" if chat else b""
        self._plain = self._after + b',"logprobs":null,"finish_reason":null}'
        self._nothing = b',"delta":{}' if chat else b',"text":""'
        self._prefixes: dict[int, bytes] = {}

    def role(self, index: int) -> bytes:
        """Return the first chunk of a chat choice."""
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return self._choice(index) + delta + self._tail

    def content(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None = None,
        used: dict[str, Any] | None = None,
    ) -> bytes:
        """Return a chunk with new text of a choice; with `used`, the usage so far is in it."""
        prefix = self._prefixes.get(index)
        if prefix is None:
            prefix = self._prefixes[index] = self._choice(index) + self._before
        body = prefix + encode_line(text)
        if logprobs is None:
            return body + self._plain + self._end(used)
        shown = b',"logprobs":' + encode_line(logprobs) + b',"finish_reason":null}'
        return body + self._after + shown + self._end(used)

    def plain(self, index: int) -> Callable[[str], bytes]:
        """Return what makes chunks with new text and nothing else, as fast as can be."""
        before, behind = self._choice(index) + self._before, self._plain + self._tail
        return lambda text: before + encode_line(text) + behind

    def shaped(
        self,
        index: int,
        deltas: Sequence[Delta],
        logprobs: dict[str, Any] | None = None,
        used: dict[str, Any] | None = None,
    ) -> bytes:
        """Return chunks with text and calls in order; logprobs go with the first text."""
        frames = b""
        for delta in deltas:
            if isinstance(delta, ToolDelta):
                frames += self.tool(index, delta, used)
            else:
                frames += self.content(index, delta, logprobs, used)
                logprobs = None
        if logprobs is not None:
            frames += self.content(index, "", logprobs, used)
        return frames

    def tool(self, index: int, delta: ToolDelta, used: dict[str, Any] | None = None) -> bytes:
        """Return a chunk with something new of a tool call."""
        function = {"arguments": delta.arguments}
        call: dict[str, Any] = {"index": delta.index, "function": function}
        if delta.name is not None:
            call = tool_call(delta.call_id or "", delta.name, delta.arguments)
            call["index"] = delta.index
        body = b',"delta":{"tool_calls":[' + encode_line(call) + b"]}"
        return (
            self._choice(index) + body + b',"logprobs":null,"finish_reason":null}' + self._end(used)
        )

    def finish(self, index: int, reason: str, used: dict[str, Any] | None = None) -> bytes:
        """Return the last chunk of a choice."""
        end = b',"logprobs":null,"finish_reason":"%s"}' % reason.encode()
        return self._choice(index) + self._nothing + end + self._end(used)

    def usage(self, used: dict[str, Any]) -> bytes:
        """Return the usage chunk, which has no choices."""
        return self._head + self._end(used)

    def _end(self, used: dict[str, Any] | None) -> bytes:
        return self._tail if used is None else b'],"usage":' + _encode(used) + b"}\n\n"

    def _choice(self, index: int) -> bytes:
        return self._head + b'{"index":%d' % index


def encode_line(value: Any) -> bytes:
    """Return JSON that is one line to every client."""
    encoded = _encode(value)
    if not encoded.isascii():
        for char, escape in _LINE_ENDS:
            encoded = encoded.replace(char, escape)
    return encoded
