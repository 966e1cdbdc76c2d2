"""Request bodies: random prompts of the lengths asked for, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from rondo.types import Slo
from rondo_bench.sim.records import Arrival

#: Words that are one token each, or about that, in the vocabularies in use.
_WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world"),
    *("school", "state", "family", "student", "group", "country", "problem", "hand", "part"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyShape:
    """How requests are spelled.

    Args:
        chat: POST /v1/chat/completions with one user message of text; otherwise completions.
        as_text: completions with text instead of token ids. A word counts as a token, so lengths
            are only near those asked for.
        first_id, last_id: ids are drawn from these. Special tokens live below in most models.
        prompts: token ids of each request by its index, instead of random ones.
        extensions: send `ignore_eos`, which vLLM, SGLang and Rondo know and OpenAI refuses.
        send_slo: send the objectives, which Rondo alone knows.
    """

    model: str
    chat: bool = False
    as_text: bool = False
    first_id: int = 16
    last_id: int = 255
    prompts: Sequence[Sequence[int]] | None = None
    extensions: bool = True
    send_slo: bool = False

    @property
    def path(self) -> str:
        """Of the endpoint, behind the server's address."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, arrival: Arrival, slo: Slo | None, seed: int, index: int) -> bytes:
        """The JSON of a request; its prompt depends on seed and index only."""
        fields: dict[str, Any] = {
            "model": self.model,
            "max_tokens": arrival.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.prompts is not None:
            fields["prompt"] = self.prompts[index]
        else:
            fields |= self._prompt(arrival.prompt_tokens, np.random.default_rng([seed, index]))
        if self.extensions:
            fields["ignore_eos"] = True
        slo = arrival.slo or slo
        if self.send_slo and slo is not None:
            fields["slo"] = {"ttft_ms": slo.ttft_s * 1e3, "tpot_ms": slo.tpot_s * 1e3}
        return msgspec.json.encode(fields)

    def _prompt(self, count: int, rng: np.random.Generator) -> dict[str, Any]:
        if not self.chat and not self.as_text:
            return {"prompt": rng.integers(self.first_id, self.last_id + 1, count).tolist()}
        text = " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), count).tolist())
        if self.chat:
            return {"messages": [{"role": "user", "content": text}]}
        return {"prompt": text}
