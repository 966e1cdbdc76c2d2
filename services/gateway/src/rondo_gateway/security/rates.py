"""How much one key may ask for: requests and tokens a minute, requests at once.

Each gateway counts by itself; a key has its limits at every one of them.
"""

from __future__ import annotations

import math

from rondo.service.api_keys import ApiKey
from rondo_gateway.errors import ApiError

_MINUTE_S = 60.0
#: When one of the requests under way ends is not known; soon, perhaps.
_RETRY_CONCURRENT_S = 1.0


class Bucket:
    """A token bucket that holds one minute's worth and may go into debt.

    Args:
        per_minute: what flows in; None: without end.
        now_s: on the monotonic clock, as everywhere here.
    """

    def __init__(self, per_minute: int | None, now_s: float) -> None:
        self._size = math.inf if per_minute is None else float(per_minute)
        self._per_s = self._size / _MINUTE_S
        self._level = self._size
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until it holds `amount`; 0: it does."""
        self._fill(now_s)
        if self._level >= amount:
            return 0.0
        return (amount - self._level) / self._per_s

    def take(self, amount: float, now_s: float) -> None:
        """Takes `amount`, whether it is there or not."""
        self._fill(now_s)
        self._level -= amount

    def _fill(self, now_s: float) -> None:
        if self._size < math.inf:
            gained = (now_s - self._at_s) * self._per_s
            self._level = min(self._size, self._level + gained)
        self._at_s = now_s


class Usage:
    """What one key has used lately, against its limits."""

    def __init__(self, key: ApiKey, now_s: float) -> None:
        self._key = key
        self._requests = Bucket(key.requests_per_minute, now_s)
        self._tokens = Bucket(key.tokens_per_minute, now_s)
        self._running = 0

    def changed(self, key: ApiKey, now_s: float) -> None:
        """The key's limits may be others now; those that are not go on as they are."""
        if key.requests_per_minute != self._key.requests_per_minute:
            self._requests = Bucket(key.requests_per_minute, now_s)
        if key.tokens_per_minute != self._key.tokens_per_minute:
            self._tokens = Bucket(key.tokens_per_minute, now_s)
        self._key = key

    def begin(self, now_s: float) -> None:
        """A request comes; `end` must follow.

        Raises:
            ApiError: 429 with Retry-After. Nothing was taken then.
        """
        most = self._key.concurrent_requests
        if most is not None and self._running >= most:
            limit = f"{most} requests at once"
            raise _too_much(limit, "concurrency_limit_exceeded", _RETRY_CONCURRENT_S)
        wait_s = self._requests.wait_s(1, now_s)
        if wait_s:
            limit = f"{self._key.requests_per_minute} requests per minute"
            raise _too_much(limit, "rate_limit_exceeded", wait_s)
        # What a request will cost is known when it has ended: it may begin while there is any
        # left, and those after it wait until the debt is paid.
        wait_s = self._tokens.wait_s(1, now_s)
        if wait_s:
            limit = f"{self._key.tokens_per_minute} tokens per minute"
            raise _too_much(limit, "token_limit_exceeded", wait_s)
        self._requests.take(1, now_s)
        self._running += 1

    def end(self, num_tokens: int, now_s: float) -> None:
        """A request that had begun is over; it took so many tokens, prompt and answer."""
        self._running -= 1
        self._tokens.take(num_tokens, now_s)

    @property
    def idle(self) -> bool:
        """Whether no request of the key is under way."""
        return self._running == 0


def _too_much(limit: str, code: str, retry_after_s: float) -> ApiError:
    message = f"This API key is limited to {limit}."
    return ApiError(429, message, code=code, retry_after_s=retry_after_s)
