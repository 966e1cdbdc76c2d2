"""Settings of the policies that plan with predicted answers; each part can be switched off."""

from __future__ import annotations

import msgspec

from rondo.errors import ConfigError
from rondo.policy.econoserve.order import KEYS

#: How waiting prompts are sorted.
ORDERS = tuple(KEYS)


class EconoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How EconoServe and its parts behave.

    The defaults are what measures best with predictions that are mostly near; the paper pads by
    0.10 to 0.15, and rounds so that groups end together.

    order: one of `ORDERS`. pipelining: whether what is reserved and not used yet is lent. groups:
    decode steps to which predicted ends are rounded up, so that requests end together; 0: not.
    pad: share added to each prediction. buffer_steps: decode steps by which a loan comes back
    before it is needed. reserve_share: of the KV pool, kept back for answers longer than predicted.
    headroom_share: of the KV pool, left to prompts with short answers: one of the mean length or
    more may not take it, a shorter one in proportion. forward_tokens: tokens in a step of prompts
    and decodes; 0: found from the latency model. elder_every: of so many admissions one is the
    oldest prompt's, whatever the order, once that has waited `patience_s` for each token that it is
    predicted to get.
    """

    order: str = "shortest"
    pipelining: bool = True
    groups: int = 0
    pad: float = 0.0
    buffer_steps: int = 0
    reserve_share: float = 0.01
    headroom_share: float = 0.08
    forward_tokens: int = 0
    elder_every: int = 16
    patience_s: float = 1.0

    def check(self) -> None:
        """Raises ConfigError at a value that means nothing."""
        if self.order not in ORDERS:
            raise ConfigError("order", f"{self.order!r} is none of {', '.join(ORDERS)}")
        for name in ("reserve_share", "headroom_share"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ConfigError(name, f"{getattr(self, name):g} is not in [0, 0.5)")
        for name in ("pad", "groups", "buffer_steps", "forward_tokens", "patience_s"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"{getattr(self, name):g} is less than 0")
        if self.elder_every < 2:
            raise ConfigError("elder_every", f"{self.elder_every} is less than 2")
