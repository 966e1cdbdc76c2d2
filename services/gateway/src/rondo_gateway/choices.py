"""One choice of an answer: the pieces of its text, shaped as the client asked.

Surface: `ChoiceShaper`, `Shaped`, `ChoiceCollector`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from rondo.logprobs import Logprobs
from rondo.types import FinishReason
from rondo_gateway.generation import Piece
from rondo_gateway.plan import GenerationPlan
from rondo_gateway.responses import Choice, Kind, tool_call
from rondo_gateway.scores import ScoreShaper, join_text
from rondo_gateway.text.tool_parsers import Delta, ToolDelta, ToolParser


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt, where the answer's text begins with it."""

    text: str
    tokens: list[int]


class Shaped(msgspec.Struct, frozen=True, gc=False):
    """New text and tool calls in order, their logprobs, and OpenAI's finish reason at the end."""

    deltas: list[Delta]
    logprobs: dict[str, Any] | None
    finish: str | None


class ChoiceShaper:
    """Shapes one choice.

    Args:
        scores: None where no logprobs are asked for.
        echo: None where the prompt is not echoed.
    """

    def __init__(
        self, kind: Kind, plan: GenerationPlan, scores: ScoreShaper | None, echo: Echo | None
    ) -> None:
        tools = plan.tools
        self._chat = kind is Kind.CHAT
        self._scores = scores
        self._echo = echo
        self._echo_only = echo is not None and plan.max_tokens == 0
        self._echo_chars = len(echo.text) if echo else 0
        self._named = tools is not None and tools.named
        self._parser: ToolParser | None = None
        if tools is not None:
            self._parser = ToolParser(tools.parser, tools.names, parallel=tools.parallel)

    def shape(self, piece: Piece, prompt: Logprobs | None) -> Shaped:
        """Shapes the next piece; `prompt` are the prompt's logprobs."""
        text = "" if self._echo_only else piece.text
        logprobs = self._shown(piece)
        if (echo := self._echo) is not None:
            self._echo = None
            text = echo.text + text
            if self._scores is not None:
                before = self._scores.prompt(echo.tokens, prompt)
                logprobs = before if logprobs is None else join_text(before, logprobs)
        finish = piece.finish.value if piece.finish else None
        if self._parser is None:
            return Shaped([text] if text else [], logprobs, finish)
        deltas = self._parser.push(text)
        if finish:
            deltas += self._parser.finish()
            if piece.finish is FinishReason.STOP and self._parser.num_calls and not self._named:
                finish = "tool_calls"
        return Shaped(deltas, logprobs, finish)

    def _shown(self, piece: Piece) -> dict[str, Any] | None:
        if self._scores is None or not piece.scored or self._echo_only:
            return None
        if self._chat:
            return self._scores.chat(piece.scored)
        return self._scores.text(piece.scored, self._echo_chars)


class ChoiceCollector:
    """Puts the shaped pieces of one choice together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: dict[str, Any] | None = None
        self._calls: list[tuple[str, str, list[str]]] = []
        self._finish = FinishReason.LENGTH.value
        self.sum_logprob = 0.0

    def take(self, piece: Piece, shaped: Shaped) -> None:
        """Takes the next piece."""
        for delta in shaped.deltas:
            if isinstance(delta, ToolDelta):
                self._take_call(delta)
            else:
                self._texts.append(delta)
        if shaped.logprobs is not None:
            self._logprobs = _joined(self._logprobs, shaped.logprobs)
        self.sum_logprob += sum(item.logprobs.logprob for item in piece.scored)
        self._finish = shaped.finish or self._finish

    def choice(self, index: int) -> Choice:
        """The whole choice."""
        calls = [tool_call(call_id, name, "".join(parts)) for call_id, name, parts in self._calls]
        return Choice(index, "".join(self._texts), self._finish, self._logprobs, calls)

    def _take_call(self, delta: ToolDelta) -> None:
        if delta.name is not None:
            self._calls.append((delta.call_id or "", delta.name, []))
        self._calls[delta.index][2].append(delta.arguments)


def _joined(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    if before is None:
        return after
    if "content" in before:
        return {"content": before["content"] + after["content"], "refusal": None}
    return join_text(before, after)
