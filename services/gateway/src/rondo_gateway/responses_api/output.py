"""The output of a response: its items, and the events that tell of them while they come.

Surface: `OutputBuilder`, `event`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from rondo_gateway.choices import Shaped
from rondo_gateway.responses import encode_line
from rondo_gateway.text.tool_parsers import ToolDelta

Event = dict[str, Any]


def event(number: int, content: Event) -> bytes:
    """A server-sent event; `number` counts those of a stream."""
    data = encode_line({**content, "sequence_number": number})
    return b"event: " + str(content["type"]).encode() + b"\ndata: " + data + b"\n\n"


class OutputBuilder:
    """Puts text and calls into items, one open at a time."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._parts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def take(self, shaped: Shaped) -> Iterator[Event]:
        """Takes what came; yields what it changes."""
        logprobs = (shaped.logprobs or {}).get("content") or []
        for delta in shaped.deltas:
            if isinstance(delta, ToolDelta):
                yield from self._take_call(delta)
            else:
                yield from self._take_text(delta, logprobs)
                logprobs = []
        self._logprobs += logprobs  # of tokens without text of their own

    def close(self, status: str) -> Iterator[Event]:
        """Ends the open item, if there is one; an answer without any has an empty message."""
        if not self.items:
            yield from self._take_text("", [])
        if self.items[-1]["status"] != "in_progress":
            return
        item, where = self.items[-1], self._where()
        content = "".join(self._parts)
        if item["type"] == "message":
            part = _text_part(content, self._logprobs)
            done = {"content_index": 0, **where}
            yield {
                "type": "response.output_text.done",
                "text": content,
                "logprobs": self._logprobs,
                **done,
            }
            yield {"type": "response.content_part.done", "part": part, **done}
            item["content"] = [part]
        else:
            item["arguments"] = content
            kind = "response.function_call_arguments.done"
            yield {"type": kind, "arguments": content, "name": item["name"], **where}
        item["status"] = status
        yield {"type": "response.output_item.done", "output_index": self._index(), "item": item}

    def _take_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if not self._is_open("message"):
            if self.items:
                yield from self.close("completed")
            item = {"type": "message", "role": "assistant", "content": []}
            yield from self._open(item, "msg")
            part = _text_part("", [])
            kind = "response.content_part.added"
            yield {"type": kind, "content_index": 0, "part": part, **self._where()}
        self._parts.append(text)
        self._logprobs += logprobs
        if text:
            yield {
                "type": "response.output_text.delta",
                "content_index": 0,
                "delta": text,
                "logprobs": logprobs,
                **self._where(),
            }

    def _take_call(self, delta: ToolDelta) -> Iterator[Event]:
        if delta.name is not None:
            if self.items:
                yield from self.close("completed")
            item = {
                "type": "function_call",
                "call_id": delta.call_id,
                "name": delta.name,
                "arguments": "",
            }
            yield from self._open(item, "fc")
        if delta.arguments:
            self._parts.append(delta.arguments)
            kind = "response.function_call_arguments.delta"
            yield {"type": kind, "delta": delta.arguments, **self._where()}

    def _open(self, item: dict[str, Any], prefix: str) -> Iterator[Event]:
        named = {**item, "id": f"{prefix}_{uuid.uuid4().hex}", "status": "in_progress"}
        self.items.append(named)
        self._parts, self._logprobs = [], []
        copy = msgspec.json.decode(msgspec.json.encode(named))
        yield {"type": "response.output_item.added", "output_index": self._index(), "item": copy}

    def _is_open(self, kind: str) -> bool:
        last = self.items[-1] if self.items else {}
        return last.get("type") == kind and last["status"] == "in_progress"

    def _index(self) -> int:
        return len(self.items) - 1

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": self._index()}


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
