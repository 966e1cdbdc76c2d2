"""What changes logits before a token is drawn: grammars, biases, banned ends, penalties.

Everything here works on the rows of a batch at once; what is listed token by token are the tokens
that a request names or has said, never the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from rondo.types import Sampling
from rondo_worker.engines.grammar import Bitmask
from rondo_worker.engines.torch.transfer import to_device


@dataclass(slots=True)  # frozen it would take three times as long to make, for every token
class Draw:
    """One sequence's turn: how to sample, its token's index, and what it has said so far.

    `output_counts` maps the tokens of the answer so far to how often they occurred; `tokens` is
    the prompt with the answer so far (for the repetition penalty). `banned` are not drawn.
    """

    sampling: Sampling
    index: int
    output_counts: Mapping[int, int] = field(default_factory=dict)
    tokens: Sequence[int] = ()
    banned: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Allowed:
    """What grammars allow: for each of `rows`, bits [rows, ceil(vocabulary / 32)]."""

    rows: Sequence[int]
    bits: Bitmask


def adjust(
    logits: torch.Tensor, draws: Sequence[Draw], allowed: Allowed | None = None
) -> torch.Tensor:
    """Logits [rows, vocabulary] as float32, changed; the argument is left as it was.

    The order is vLLM's: grammar, logit bias, minimal length, repetition penalty over prompt and
    answer, then OpenAI's penalties over the answer: frequency x count + presence.
    """
    logits = logits.float().clone()
    _add(logits, _biases(draws))
    if allowed is not None:
        _restrict(logits, allowed)
    banned = [(row, token) for row, draw in enumerate(draws) for token in draw.banned]
    if banned:
        places = to_device(banned, logits.device, torch.int64).unbind(1)
        logits[places] = float("-inf")
    for row, draw in enumerate(draws):
        if draw.sampling.repetition_penalty != 1.0:
            _repeat_less(logits[row], draw)
    _add(logits, _penalties(draws))
    return logits


def _restrict(logits: torch.Tensor, allowed: Allowed) -> None:
    bits = torch.from_numpy(allowed.bits).to(logits.device)
    shifts = torch.arange(32, device=logits.device, dtype=torch.int32)
    open_bits = (bits.unsqueeze(-1) >> shifts).bitwise_and_(1).flatten(1)[:, : logits.shape[-1]]
    rows = to_device(allowed.rows, logits.device)
    logits[rows] = logits[rows].masked_fill_(open_bits == 0, float("-inf"))


def _repeat_less(row: torch.Tensor, draw: Draw) -> None:
    """Divides positive logits of tokens that occurred and multiplies negative ones, in place."""
    penalty = draw.sampling.repetition_penalty
    tokens = to_device(draw.tokens, row.device, torch.int64)
    scores = row[tokens]
    row[tokens] = torch.where(scores > 0, scores / penalty, scores * penalty)


def _add(logits: torch.Tensor, changes: Iterable[tuple[int, int, float]]) -> None:
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[float] = []
    for row, token, amount in changes:
        rows.append(row)
        tokens.append(token)
        amounts.append(amount)
    if rows:
        places = to_device([rows, tokens], logits.device, torch.int64)
        change = to_device(amounts, logits.device, logits.dtype)
        logits.index_put_((places[0], places[1]), change, accumulate=True)


def _biases(draws: Sequence[Draw]) -> Iterator[tuple[int, int, float]]:
    for row, draw in enumerate(draws):
        for token, bias in draw.sampling.logit_bias:
            yield row, token, bias


def _penalties(draws: Sequence[Draw]) -> Iterator[tuple[int, int, float]]:
    for row, draw in enumerate(draws):
        sampling = draw.sampling
        if sampling.presence_penalty or sampling.frequency_penalty:
            for token, count in draw.output_counts.items():
                amount = sampling.presence_penalty + sampling.frequency_penalty * count
                yield row, token, -amount
