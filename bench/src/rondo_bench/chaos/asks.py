"""What the clients of a chaos run ask for, and what they must get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from rondo_bench.workload import Item, spread_lengths

#: Different requests; their answers without faults are what must come under faults.
NUM_ASKS = 64
PROMPT_TOKENS, MEAN_OUTPUT_TOKENS = 40, 150
#: Ids that every tokenizer of ours has.
VOCAB_SIZE = 160
STOP_CHARS = 5


class Kind(Enum):
    """The ways in which an answer is asked for."""

    STREAM = "greedy stream"
    WHOLE = "whole answer, ends by itself"
    CHOICES = "two seeded choices in a stream"
    STOP = "stream with a stop string"
    SEEDED = "seeded stream with penalties"


#: Half of all are plain streams.
_KINDS = (
    Kind.STREAM,
    Kind.WHOLE,
    Kind.STREAM,
    Kind.CHOICES,
    Kind.STREAM,
    Kind.STOP,
    Kind.STREAM,
    Kind.SEEDED,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. A STOP has its stop string once its text without one is known."""

    item: Item
    kind: Kind
    seed: int
    stop: str = ""

    @property
    def key(self) -> str:
        """Names the request; the same one is asked again and again."""
        return self.item.request_id

    @property
    def streamed(self) -> bool:
        """Whether the answer comes as events."""
        return self.kind is not Kind.WHOLE

    @property
    def num_choices(self) -> int:
        """Answers to this one request."""
        return 2 if self.kind is Kind.CHOICES else 1

    def body(self, model: str) -> dict[str, Any]:
        """The body of POST /v1/completions."""
        body: dict[str, Any] = {
            "model": model,
            "prompt": list(self.item.prompt),
            "max_tokens": self.item.output_tokens,
            "temperature": 0,
            "seed": self.seed,
            "ignore_eos": self.kind is not Kind.WHOLE,
            "stream": self.streamed,
        }
        if self.streamed:
            body["stream_options"] = {"include_usage": True}
        if self.kind in (Kind.CHOICES, Kind.SEEDED):
            body["temperature"] = 0.9
        if self.kind is Kind.SEEDED:
            body |= {"presence_penalty": 0.3, "frequency_penalty": 0.2}
        if self.kind is Kind.CHOICES:
            body["n"] = 2
        if self.stop:
            body["stop"] = [self.stop]
        return body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, or must come: text and finish reason of each choice, and tokens in all."""

    texts: tuple[str, ...]
    finishes: tuple[str, ...]
    num_tokens: int


def make_asks(count: int, seed: int) -> list[Ask]:
    """`count` requests of all kinds, mixed; the same ones for the same seed."""
    items = spread_lengths(count, PROMPT_TOKENS, MEAN_OUTPUT_TOKENS, VOCAB_SIZE, seed)
    return [
        Ask(item, _KINDS[index % len(_KINDS)], seed * 1000 + index)
        for index, item in enumerate(items)
    ]


def with_stops(asks: Sequence[Ask], answers: dict[str, Answer]) -> tuple[list[Ask], dict[str, str]]:
    """Chooses stop strings out of the answers without them.

    Returns:
        All asks; and, by key, the texts that the answers with a stop string must have.
    """
    asked, texts = [], {}
    for ask in asks:
        if ask.kind is Kind.STOP:
            text = answers[ask.key].texts[0]
            begin = len(text) * 3 // 5
            ask = replace(ask, stop=text[begin : begin + STOP_CHARS])
            texts[ask.key] = text[: text.index(ask.stop)]
        asked.append(ask)
    return asked, texts
