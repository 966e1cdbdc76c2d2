"""Logprobs in OpenAI's shapes.

Surface: `ScoreShaper(tokenizer, ...)` with `chat(scored)`, `text(scored)`, `prompt(tokens, rows)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from rondo.logprobs import Logprobs, TokenLogprobs
from rondo_gateway.text.assembler import Scored
from rondo_gateway.text.detokenizer import IncrementalDetokenizer
from rondo_gateway.text.vocabulary import vocabulary_of

#: JSON has no infinity; vLLM writes this.
LOWEST = -9999.0


class ScoreShaper:
    """Shapes logprobs of one request.

    Args:
        num_top: alternatives beside each token.
        as_ids: show tokens as "token_id:17", so that those with the same text differ.
    """

    def __init__(self, tokenizer: Tokenizer, num_top: int, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary_of(tokenizer)
        self._num_top = num_top
        self._as_ids = as_ids

    def chat(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """Return choices[].logprobs of a chat."""
        return {"content": [self._entry(item) for item in scored], "refusal": None}

    def text(self, scored: Sequence[Scored], offset: int = 0) -> dict[str, Any]:
        """Return choices[].logprobs of a completion; `offset` is the length of an echoed prompt."""
        return {
            "text_offset": [item.offset + offset for item in scored],
            "token_logprobs": [_finite(item.logprobs.logprob) for item in scored],
            "tokens": [self._name(item.token) for item in scored],
            "top_logprobs": [self._named_top(item.token, item.logprobs) for item in scored],
        }

    def prompt(self, tokens: Sequence[int], rows: Logprobs | None) -> dict[str, Any]:
        """Return the same of an echoed prompt; nothing foretells its first token.

        Args:
            rows: of all tokens but the first; None for a prompt of one token.
        """
        known: list[TokenLogprobs | None] = [None, *(rows.rows() if rows else ())]
        offsets = self._offsets(tokens)
        return {
            "text_offset": offsets,
            "token_logprobs": [None if row is None else _finite(row.logprob) for row in known],
            "tokens": [self._name(token) for token in tokens],
            "top_logprobs": [
                None if row is None else self._named_top(token, row)
                for token, row in zip(tokens, known, strict=True)
            ],
        }

    def _offsets(self, tokens: Sequence[int]) -> list[int]:
        stream = IncrementalDetokenizer(self._tokenizer, skip_special_tokens=False)
        offsets, length = [], 0
        for token in tokens:
            offsets.append(length)
            length += len(stream.push([token]))
        return offsets

    def _entry(self, item: Scored) -> dict[str, Any]:
        row = item.logprobs
        top = [self._shown(token, value) for token, value in row.top[: self._num_top]]
        return {**self._shown(item.token, row.logprob), "top_logprobs": top}

    def _shown(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._vocabulary.exact_bytes(token)
        return {"token": self._name(token), "logprob": _finite(logprob), "bytes": list(data)}

    def _named_top(self, token: int, row: TokenLogprobs) -> dict[str, float]:
        """The alternatives and the token itself, as OpenAI does."""
        named = {self._name(other): _finite(value) for other, value in row.top[: self._num_top]}
        return named | {self._name(token): _finite(row.logprob)}

    def _name(self, token: int) -> str:
        if self._as_ids:
            return f"token_id:{token}"
        return self._vocabulary.exact_bytes(token).decode(errors="replace")


def join_text(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Logprobs of a completion, one behind the other."""
    return {key: before[key] + after[key] for key in before}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST) + 0.0  # and no -0.0
