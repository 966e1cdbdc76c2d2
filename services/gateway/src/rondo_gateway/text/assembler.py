"""Tokens of one answer become its text: detokenised, up to a stop, with logprobs beside it.

Surface: `AnswerText`, `Scored`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from tokenizers import Tokenizer

from rondo.logprobs import TokenLogprobs
from rondo.types import FinishReason
from rondo_gateway.text.detokenizer import IncrementalDetokenizer
from rondo_gateway.text.stops import StopFilter


@dataclass(frozen=True, slots=True)
class TextRules:
    """How an answer's text is made; see `GenerationPlan`."""

    stops: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    include_stop: bool = False
    hide_special: bool = True
    scored: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its logprobs; `offset` is where its text begins, in characters."""

    token: int
    logprobs: TokenLogprobs
    offset: int


class Part(msgspec.Struct, frozen=True, gc=False):
    """New text, with the logprobs of the tokens that it begins; `finish` comes with the last.

    `num_used` of the tokens pushed are the answer's; what came behind its end is not."""

    text: str
    finish: FinishReason | None
    num_used: int
    scored: tuple[Scored, ...] = ()


class AnswerText:
    """The text of one answer.

    The token that ends an answer, an end token or one of `stop_token_ids`, is no text unless
    stops are included. Before `min_tokens` nothing stops, as in vLLM. With logprobs each token is
    taken alone, so that its place in the text is known; tokens within a stop string that is cut
    off are cut off too.
    """

    def __init__(self, tokenizer: Tokenizer, rules: TextRules) -> None:
        self._rules = rules
        self._text = IncrementalDetokenizer(tokenizer, rules.hide_special)
        self._stops = StopFilter(rules.stops, include=rules.include_stop)
        self.plain = not (rules.stops or rules.stop_token_ids or rules.scored)
        """Nothing is looked for in the text, so that `add` does until the end."""
        self._num_tokens = 0
        self._known_chars = 0  # of the text that is certain
        self._sent_chars = 0  # of the text that was passed on
        self._waiting: deque[Scored] = deque()

    def add(self, tokens: Sequence[int]) -> str:
        """Takes new tokens of a plain answer that goes on; their text."""
        self._num_tokens += len(tokens)
        return self._text.push(tokens)

    def push(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprobs],
        ended: FinishReason | None,
    ) -> Part:
        """Takes new tokens; `logprobs` has one for each of them, or none.

        Args:
            ended: these are the last ones, by the engine's word.
        """
        if self.plain and ended is None:
            return Part(self.add(tokens), None, len(tokens))
        tokens, ended, num_used = self._cut(tokens, ended)
        texts: list[str] = []
        stopped = False
        for begin, end in self._groups(len(tokens)):
            if self._rules.scored and logprobs:
                self._waiting.append(Scored(tokens[begin], logprobs[begin], self._known_chars))
            new = self._text.push(tokens[begin:end])
            self._num_tokens += end - begin
            stopped = self._pass(new, texts)
            if stopped:
                num_used = end
                break
        if ended and not stopped:
            stopped = self._pass(self._text.finish(), texts)
            if not stopped:
                texts.append(self._stops.finish())
        text = "".join(texts)
        self._sent_chars += len(text)
        finish = FinishReason.STOP if stopped else ended
        return Part(text, finish, num_used, self._ready(whole=bool(ended) and not stopped))

    def _cut(
        self, tokens: Sequence[int], ended: FinishReason | None
    ) -> tuple[Sequence[int], FinishReason | None, int]:
        """The tokens that are text, how they end the answer, and how many are part of it."""
        rules = self._rules
        if rules.stop_token_ids:
            for index, token in enumerate(tokens):
                due = self._num_tokens + index >= rules.min_tokens
                if due and token in rules.stop_token_ids:
                    return tokens[: index + rules.include_stop], FinishReason.STOP, index + 1
        if ended is FinishReason.STOP and not rules.include_stop:
            return tokens[:-1], ended, len(tokens)
        return tokens, ended, len(tokens)

    def _groups(self, count: int) -> list[tuple[int, int]]:
        """Ranges of tokens that are taken together.

        With stop strings one by one: which token completes one, and so the count of tokens, must
        not depend on how many happened to come together.
        """
        if self._rules.scored or self._rules.stops:
            return [(index, index + 1) for index in range(count)]
        return [(0, count)] if count else []

    def _pass(self, new: str, texts: list[str]) -> bool:
        """Text that is certain goes through the stop strings; whether one was found."""
        self._known_chars += len(new)
        if self._num_tokens < self._rules.min_tokens:
            texts.append(new)
            return False
        emitted, stopped = self._stops.push(new)
        texts.append(emitted)
        return stopped

    def _ready(self, *, whole: bool) -> tuple[Scored, ...]:
        """Logprobs of tokens whose text was passed on; all of them at the end."""
        ready: list[Scored] = []
        while self._waiting and (whole or self._waiting[0].offset < self._sent_chars):
            ready.append(self._waiting.popleft())
        return tuple(ready)
