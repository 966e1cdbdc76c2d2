"""How many lines of a batch run side by side: as many as the instances have room for."""

from __future__ import annotations

import asyncio


class Window:
    """Keeps a few lines of a batch ahead of what the instances have taken.

    A line waits until an instance has taken it, and its coordinator has one do that once there is
    room. So a few that wait fill whatever room there is within some round trips, and coordinators'
    queues stay short, however many batches run.

    Args:
        most: lines at once, those that wait included.
    """

    AHEAD = 32

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = asyncio.Event()
        self.num_lines = 0
        self.num_waiting = 0

    @property
    def is_open(self) -> bool:
        """Whether one more line may enter."""
        return self.num_lines < self._most and self.num_waiting < self.AHEAD

    def enter(self) -> Place:
        """A line begins: it waits."""
        return Place(self)

    async def change(self) -> None:
        """Returns when a line has been taken, or has left."""
        self._changed.clear()
        await self._changed.wait()

    def count(self, lines: int, waiting: int) -> None:
        """For places: so many more."""
        self.num_lines += lines
        self.num_waiting += waiting
        self._changed.set()


class Place:
    """Where a line stands in its batch's window."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._waits = True
        window.count(1, 1)

    def taken(self) -> None:
        """An instance has the line, or one of its choices."""
        self._set(waits=False)

    def again(self) -> None:
        """It has to be asked for anew."""
        self._set(waits=True)

    def leave(self) -> None:
        """The line is over."""
        self._set(waits=False)
        self._window.count(-1, 0)

    def _set(self, *, waits: bool) -> None:
        if waits != self._waits:
            self._waits = waits
            self._window.count(0, 1 if waits else -1)
