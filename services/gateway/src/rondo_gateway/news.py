"""Wakes the one reader of something that comes piece by piece, at next to no cost."""

from __future__ import annotations

import asyncio


class News:
    """Wakes one reader; made for one that waits again and again, and is mostly woken soon.

    The timer is set once and looks, when it fires, how long the reader has really waited: setting
    and cancelling one for each token is dearer than all the rest of the waiting.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due_at = self._timeout_s = 0.0

    @property
    def awaited(self) -> bool:
        """Whether the reader waits now."""
        return self._waiter is not None and not self._waiter.done()

    def wait(self, timeout_s: float) -> asyncio.Future[bool]:
        """To be awaited: the next `wake`; False when it did not come in time."""
        self._timeout_s = timeout_s
        self.put_off()
        if self._timer is None or self._timer_at > self._due_at:
            self._set_timer()
        self._waiter = self._loop.create_future()
        return self._waiter

    def put_off(self) -> None:
        """The time of a wait counts from now."""
        self._due_at = self._loop.time() + self._timeout_s

    def wake(self) -> None:
        """Ends the wait that is under way, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def close(self) -> None:
        """There is no other wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.close()
        self._timer_at = self._due_at
        self._timer = self._loop.call_at(self._due_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._due_at:
            self._set_timer()
        else:
            self._waiter.set_result(False)
