"""How many lines of a batch run side by side: more while all goes well, fewer when refused."""

from __future__ import annotations


class Window:
    """Additive increase, multiplicative decrease, as TCP does it (RFC 5681).

    Args:
        most: lines at once.
    """

    START = 8

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(min(self.START, most))
        self._growing_fast = True
        self._hold = 0

    @property
    def size(self) -> int:
        """Lines that may run now."""
        return int(self._size)

    def answered(self) -> None:
        """A line was answered."""
        self._hold = max(0, self._hold - 1)
        grown = self._size + (1.0 if self._growing_fast else 1.0 / self._size)
        self._size = min(grown, float(self._most))

    def refused(self) -> None:
        """A line was refused for want of capacity."""
        self._growing_fast = False
        if self._hold:
            self._hold -= 1
            return
        # What runs beside it will be refused for the same reason.
        self._hold = self.size - 1
        self._size = max(1.0, self._size / 2)
