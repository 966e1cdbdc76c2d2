"""What is measured of an engine: prefills of one prompt, and decode steps of a batch."""

from __future__ import annotations

from typing import Literal

import msgspec


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement; its result is tokens a second.

    PREFILL: one prompt of `context` tokens, up to its first token: `context` over the time.
    DECODE: `batch` requests of `context` prompt tokens, prefilled before the clock starts, get
    `steps` tokens each: all these tokens over the time.
    """

    kind: Literal["prefill", "decode"]
    context: int
    batch: int = 1
    steps: int = 1

    @property
    def tokens(self) -> int:
        """What is counted."""
        return self.context if self.kind == "prefill" else self.batch * self.steps

    @property
    def pool_tokens(self) -> int:
        """KV tokens that it needs."""
        return self.batch * (self.context + self.steps + 1)


CASES = {
    "prefill_512": Case(kind="prefill", context=512),
    "prefill_2048": Case(kind="prefill", context=2048),
    "decode_b1": Case(kind="decode", context=128, batch=1, steps=32),
    "decode_b8": Case(kind="decode", context=128, batch=8, steps=16),
    "decode_b32": Case(kind="decode", context=128, batch=32, steps=16),
    "decode_b8_ctx512": Case(kind="decode", context=512, batch=8, steps=16),
}
