"""Grammars of requests: which tokens may come next, as one bit mask for a whole batch.

A grammar follows the tokens that its sequence has, and not those that were drawn: a step that is
run again draws them again. llguidance computes the masks; it works lazily, so a grammar costs
milliseconds to begin with and tens of microseconds a token. It is loaded with the first request
that needs it.

Surface: `GrammarTable`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rondo.grammar import INITIAL_FUEL, MAX_STATES, STEP_FUEL
from rondo_worker.engines.base import EngineRequest, UnsupportedRequest
from rondo_worker.engines.sequences import LiveSequence

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

#: Compiled grammars that are kept for the next request with the same one.
KEPT_GRAMMARS = 64

Bitmask = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Follower:
    """A grammar behind the first `num_tokens` tokens of its sequence, prompt included."""

    matcher: LLMatcher
    num_tokens: int

    def follow(self, tokens: Sequence[int]) -> LLMatcher:
        """Takes the tokens that are new."""
        for token in tokens[self.num_tokens :]:
            if not self.matcher.is_stopped():
                self.matcher.consume_token(token)
        self.num_tokens = len(tokens)
        return self.matcher


class GrammarTable:
    """The grammar states of an engine's live requests.

    Args:
        folder: the model's; its tokenizer.json is read with the first grammar.
        vocab_size: width of the logits, which may be more than the tokenizer knows.
        eos_token_ids: what may follow a complete text.
    """

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos = list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._fresh: OrderedDict[str, LLMatcher] = OrderedDict()
        self._live: dict[str, _Follower] = {}

    @property
    def width(self) -> int:
        """Words of 32 bits in a mask."""
        return -(-self._vocab_size // 32)

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._live

    def add(self, request: EngineRequest) -> None:
        """Begins a request's grammar, if it has one, behind what it has answered already.

        Raises:
            UnsupportedRequest: the grammar is bad, or does not allow what the answer has already.
        """
        text = request.sampling.grammar
        if not text:
            return
        matcher = self._new(text)
        done = list(request.prompt[-request.num_resumed :]) if request.num_resumed else []
        if done and not matcher.consume_tokens(done):
            raise UnsupportedRequest("grammar", "the answer so far does not fit the grammar")
        self._live[request.request_id] = _Follower(matcher, len(request.prompt))

    def remove(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self._live.pop(request_id, None)

    def clear(self) -> None:
        """Forgets all requests."""
        self._live.clear()

    def mask(self, requests: Sequence[tuple[str, LiveSequence]]) -> Bitmask:
        """Bits [requests, ceil(vocabulary / 32)] of what may come next; `in` tells who has one.

        Raises:
            UnsupportedRequest: a grammar outgrew llguidance's limits; names its request.
        """
        bits = np.zeros((len(requests), self.width), dtype=np.int32)
        for line, (request_id, row) in zip(bits, requests, strict=True):
            matcher = self._live[request_id].follow(row.tokens)
            matcher.unsafe_compute_mask_ptr(line.ctypes.data, line.nbytes)
            if matcher.is_error():
                raise UnsupportedRequest("grammar", matcher.get_error(), (request_id,))
        return bits

    def _new(self, text: str) -> LLMatcher:
        fresh = self._fresh.get(text)
        if fresh is None:
            from llguidance import LLMatcher, LLParserLimits

            limits = LLParserLimits(
                initial_lexer_fuel=INITIAL_FUEL,
                step_lexer_fuel=STEP_FUEL,
                max_lexer_states=MAX_STATES,
            )
            fresh = LLMatcher(self._vocabulary(), text, log_level=0, limits=limits)
            if fresh.is_error():
                raise UnsupportedRequest("grammar", fresh.get_error())
            self._fresh[text] = fresh
            if len(self._fresh) > KEPT_GRAMMARS:
                self._fresh.popitem(last=False)
        self._fresh.move_to_end(text)
        return fresh.deep_copy()

    def _vocabulary(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = _read(self._folder, self._vocab_size, self._eos)
        return self._tokenizer


def _read(folder: Path, vocab_size: int, eos: list[int]) -> LLTokenizer:
    try:
        from llguidance import LLTokenizer
    except ImportError:
        raise UnsupportedRequest("grammar", "llguidance is not installed here") from None
    try:
        source = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return LLTokenizer(source, n_vocab=vocab_size, eos_token=eos or None)
    except (OSError, ValueError) as error:
        problem = f"the model's tokenizer is not known to llguidance: {error}"
        raise UnsupportedRequest("grammar", problem) from error
