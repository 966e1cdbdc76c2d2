"""KV blocks that the requests placed on an instance will own at their end."""

from __future__ import annotations

from rondo.policy.ledger import blocks_for
from rondo.types import RequestInfo


class PlacedBlocks:
    """Sums over placed requests; `used_blocks` is what the instance reported last."""

    def __init__(self, block_size: int) -> None:
        self.used_blocks = 0
        self._size = block_size
        self._final: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._sum_final = self._sum_waiting = 0

    def final(self, request: RequestInfo) -> int:
        """Blocks of a request at its predicted end."""
        answer, most = request.predicted_tokens, request.max_tokens
        return blocks_for(request.prompt_tokens + (answer if answer < most else most), self._size)

    def wait(self, request: RequestInfo) -> None:
        """A request is placed; its prompt is not computed yet."""
        if request.request_id in self._final:
            return
        blocks = self.final(request)
        self._final[request.request_id] = self._waiting[request.request_id] = blocks
        self._sum_final += blocks
        self._sum_waiting += blocks

    def run(self, request_id: str) -> None:
        """Its prompt is computed: it is among the blocks in use."""
        self._sum_waiting -= self._waiting.pop(request_id, 0)

    def drop(self, request_id: str) -> None:
        """It is gone."""
        self.run(request_id)
        self._sum_final -= self._final.pop(request_id, 0)

    def needed(self) -> int:
        """Blocks of everything placed here when it ends as predicted; more where answers turned
        out longer."""
        return max(self._sum_final, self.used_blocks + self._sum_waiting)
