"""Whether somebody looks at the cluster: some events are published only then.

A program that has more to tell than everybody needs keeps a `Watched` and asks it. Nothing is said
twice and nothing is kept: an observer sees what happens from its first `Watching` on.
"""

from __future__ import annotations

import time

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.wire.messages import Watching

#: How often an observer says that it is there.
BEAT_S = 3.0
#: After this long without a word nobody looks any more.
TIMEOUT_S = 3 * BEAT_S


class Watched:
    """True while somebody looks; until `start`, nobody does."""

    def __init__(self) -> None:
        self._until_s = float("-inf")

    def __bool__(self) -> bool:
        return time.monotonic() < self._until_s

    async def start(self, bus: Bus) -> None:
        """Begins to listen for observers."""
        await bus.subscribe(subjects.WATCH, self._on_watching)

    def _on_watching(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, Watching):
            self._until_s = time.monotonic() + TIMEOUT_S
