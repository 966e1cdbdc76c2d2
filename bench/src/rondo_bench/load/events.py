"""Server-sent events of an OpenAI stream: bytes in, what they say out. No I/O."""

from __future__ import annotations

import msgspec

from rondo.errors import PeerError

_DONE = b"[DONE]"


class BadEvent(PeerError):
    """The stream has something that is no event of OpenAI's."""


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int = 0


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


class EventReader:
    """Takes a stream in pieces cut anywhere.

    Attributes:
        num_tokens: by the last usage that came; None before.
        finished: a choice said why it ended. `done`: the stream said that nothing follows.
        error: the text of an error event.
    """

    def __init__(self) -> None:
        self.num_tokens: int | None = None
        self.finished = False
        self.done = False
        self.error: str | None = None
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Takes the next piece; how many events with text it completed.

        Raises:
            BadEvent: a data line is no JSON object of a chunk.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        count = 0
        for line in lines:
            if line.startswith(b"data:"):
                count += self._take(line[5:].strip())
        return count

    def _take(self, data: bytes) -> bool:
        if data == _DONE:
            self.done = True
            return False
        try:
            chunk = _decode(data)
        except msgspec.DecodeError as error:
            raise BadEvent(f"no event: {error}: {data[:80]!r}") from error
        if chunk.error is not None:
            self.error = _message(chunk.error)
            return False
        if chunk.usage is not None:
            self.num_tokens = chunk.usage.completion_tokens
        has_text = False
        for choice in chunk.choices:
            has_text = has_text or _has_text(choice)
            self.finished = self.finished or choice.finish_reason is not None
        return has_text


def _has_text(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text)
    return bool(delta.content or delta.reasoning_content)


def _message(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
