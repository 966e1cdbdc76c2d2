"""Links between simulated nodes, shared fairly by the transfers that cross them.

A node has one link out, one in (full duplex) and one among its own instances (PCIe). Rates are
max-min fair, as of many TCP streams through bottlenecks; they change only when a transfer starts or
ends, so the ends are exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rondo_bench.sim.clock import VirtualClock

#: What is left of a transfer that has ended but for rounding.
ROUNDING_BYTES = 1e-2
#: How far back a link remembers what it carried; no prefill step takes longer.
MEMORY_S = 60.0


@dataclass(slots=True, eq=False)
class Link:
    """One direction of a line: `bytes_per_s` is finite and above 0."""

    bytes_per_s: float
    rate: float = 0.0
    """Bytes per second that all transfers take now."""
    _since_s: list[float] = field(default_factory=lambda: [0.0])
    _carried: list[float] = field(default_factory=lambda: [0.0])

    def carried_bytes(self, at_s: float) -> float:
        """Bytes it had carried by an instant at most MEMORY_S ago."""
        since_s, carried = self._since_s, self._carried
        last = len(since_s) - 1
        index = max(0, bisect_right(since_s, at_s) - 1)
        if index == last:
            return carried[last] + self.rate * (at_s - since_s[last])
        span_s = since_s[index + 1] - since_s[index]
        share = (at_s - since_s[index]) / span_s if span_s > 0 else 1.0
        return carried[index] + share * (carried[index + 1] - carried[index])

    def idle_bytes(self, start_s: float, at_s: float) -> float:
        """What it could have carried besides between two instants."""
        carried = self.carried_bytes(at_s) - self.carried_bytes(start_s)
        return max(0.0, self.bytes_per_s * (at_s - start_s) - carried)

    def change(self, at_s: float, rate: float, early_bytes: float = 0.0) -> None:
        """From now on it carries `rate`; `early_bytes` were carried in idle time before."""
        carried = self.carried_bytes(at_s) + early_bytes
        self._since_s.append(at_s)
        self._carried.append(carried)
        self.rate = rate
        if self._since_s[len(self._since_s) // 2] < at_s - MEMORY_S:
            keep = bisect_right(self._since_s, at_s - MEMORY_S) - 1
            del self._since_s[:keep], self._carried[:keep]


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way; `done` is called when the last is through."""

    links: Sequence[Link]
    left_bytes: float
    done: Callable[[], None]
    rate: float = 0.0


class LinkNetwork:
    """Moves all transfers on, and ends each at its instant."""

    def __init__(self, clock: VirtualClock) -> None:
        self.transfers: list[Transfer] = []  # in order of their start
        self._clock = clock
        self._moved_s = 0.0
        self._epoch = 0  # of the last change of rates

    def send(
        self,
        links: Sequence[Link],
        num_bytes: float,
        done: Callable[[], None],
        *,
        early_bytes: float = 0.0,
        early_s: float = 0.0,
    ) -> Transfer:
        """Starts a transfer over all of `links`; over none it takes no time.

        Up to `early_bytes` of it count as sent in the `early_s` before now, as far as the links
        were idle then: no link ever carries more than it can.
        """
        now_s = self._clock.now_s
        if links and early_bytes and early_s:
            start_s = max(0.0, now_s - early_s)
            early_bytes = min(early_bytes, *(link.idle_bytes(start_s, now_s) for link in links))
            for link in links:
                link.change(now_s, link.rate, early_bytes)
            num_bytes -= early_bytes
        transfer = Transfer(links, num_bytes, done)
        if not links or num_bytes <= 0:
            self._clock.at(now_s, lambda _: done())
            return transfer
        self._advance()
        self.transfers.append(transfer)
        self._share()
        return transfer

    def cancel(self, transfer: Transfer) -> None:
        """Takes a transfer off its links; one that has ended is left alone."""
        if transfer in self.transfers:
            self._advance()
            self.transfers.remove(transfer)
            self._share(transfer.links)

    def _advance(self) -> None:
        span_s = self._clock.now_s - self._moved_s
        self._moved_s = self._clock.now_s
        for transfer in self.transfers:
            transfer.left_bytes -= transfer.rate * span_s

    def _share(self, freed: Sequence[Link] = ()) -> None:
        """Sets all rates, and the next end."""
        rates = dict.fromkeys(freed, 0.0)
        for transfer, rate in max_min(self.transfers):
            transfer.rate = rate
            for link in transfer.links:
                rates[link] = rates.get(link, 0.0) + rate
        for link, rate in rates.items():
            link.change(self._clock.now_s, rate)
        self._epoch += 1
        if self.transfers:
            left_s = min(t.left_bytes / t.rate for t in self.transfers)
            self._clock.at(self._clock.now_s + left_s, self._end, self._epoch)

    def _end(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._advance()
        least = max(ROUNDING_BYTES, min(t.left_bytes for t in self.transfers))
        ended = [t for t in self.transfers if t.left_bytes <= least]
        self.transfers = [t for t in self.transfers if t.left_bytes > least]
        self._share([link for transfer in ended for link in transfer.links])
        for transfer in ended:
            transfer.done()


def max_min(transfers: Sequence[Transfer]) -> list[tuple[Transfer, float]]:
    """Max-min fair rates: the tightest link is shared equally first, then the rest of the others.

    Returns transfers with bytes per second, in the order in which their rates were fixed.
    """
    rates: list[tuple[Transfer, float]] = []
    left = {link: link.bytes_per_s for transfer in transfers for link in transfer.links}
    open_ = list(transfers)
    while open_:
        users: dict[Link, int] = {}
        for transfer in open_:
            for link in transfer.links:
                users[link] = users.get(link, 0) + 1
        tightest = min(users, key=lambda link: left[link] / users[link])
        rate = left[tightest] / users[tightest]
        for transfer in open_:
            if tightest in transfer.links:
                rates.append((transfer, rate))
                for link in transfer.links:
                    left[link] = max(0.0, left[link] - rate)
        open_ = [transfer for transfer in open_ if tightest not in transfer.links]
    return rates
