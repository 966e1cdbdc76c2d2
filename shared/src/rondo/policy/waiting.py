"""Prompts that are granted to an instance and not computed yet; sums kept up to date."""

from __future__ import annotations

from rondo.policy.forecast import Forecast
from rondo.types import RequestInfo


class WaitingPrompts:
    """Requests by id, in order of their grants.

    `prompt_tokens` is the sum over them, `tokens` the part of it that is still to be computed. What
    was found of a prompt is remembered by id, also while its request is not among these.
    """

    __slots__ = ("_ahead", "_found", "prompt_tokens", "requests", "tokens")

    def __init__(self) -> None:
        self.requests: dict[str, RequestInfo] = {}
        self.prompt_tokens = self.tokens = 0
        self._found: dict[str, int] = {}  # tokens of prompts whose KV is there already
        self._ahead = 0  # tokens computed of prompts that are not complete

    def add(self, request: RequestInfo) -> None:
        """A prompt is granted."""
        if known := self.requests.get(request.request_id):
            self._count(known, -1)
        self.requests[request.request_id] = request
        self._count(request, 1)

    def pop(self, request_id: str) -> RequestInfo | None:
        """It waits no longer, or without a grant."""
        request = self.requests.pop(request_id, None)
        if request is not None:
            self._count(request, -1)
        return request

    def find(self, request: RequestInfo, num_tokens: int) -> None:
        """The KV of its first tokens is on the instance already."""
        waits = request.request_id in self.requests
        if waits:
            self._count(request, -1)
        self._found[request.request_id] = num_tokens
        if waits:
            self._count(request, 1)

    def forget(self, request_id: str) -> None:
        """Its prompt is computed, or never will be."""
        self.pop(request_id)
        self._found.pop(request_id, None)

    def advance(self, num_tokens: int) -> None:
        """So many tokens were computed, of prompts that may be complete or not."""
        self._count_ahead(self._ahead + num_tokens)

    def complete(self, request: RequestInfo) -> None:
        """A prompt that was popped is computed as a whole."""
        self._count_ahead(max(0, self._ahead - self._to_prefill(request)))
        self._found.pop(request.request_id, None)

    def settle(self) -> None:
        """No prompt is there, so none is half done."""
        self._count_ahead(0)

    def queue_in(self, forecast: Forecast) -> None:
        """Adds all of them to a forecast, less what is computed."""
        ahead = self._ahead
        for request_id, request in self.requests.items():
            found = self._found.get(request_id, 0)
            if ahead:
                found += min(ahead, request.prompt_tokens - found - 1)
                ahead = 0
            forecast.add(request.prompt_tokens, found)

    def _to_prefill(self, request: RequestInfo) -> int:
        return request.prompt_tokens - self._found.get(request.request_id, 0)

    def _count(self, request: RequestInfo, sign: int) -> None:
        prompt_tokens = request.prompt_tokens
        self.prompt_tokens += sign * prompt_tokens
        self.tokens += sign * (prompt_tokens - self._found.get(request.request_id, 0))

    def _count_ahead(self, num_tokens: int) -> None:
        self.tokens += self._ahead - num_tokens
        self._ahead = num_tokens
