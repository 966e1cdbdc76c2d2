"""Which rate to measure next, so that few runs show where attainment falls below a target. Pure.

Rates are steps of a geometric grid, the same for every side, so that runs of several seeds and
sides can be compared rate by rate. A search ends when two neighbouring steps enclose the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: How far below the first rate a search gives up: nothing meets the target.
LOWEST_STEP = -24
#: Runs of one side, workload and seed, at most.
MAX_RUNS = 12


@dataclass(frozen=True, slots=True)
class Bracket:
    """What a seed's runs say of a target: the last step that meets it and the first that fails."""

    meets: int | None
    fails: int | None

    @property
    def closed(self) -> bool:
        """They are neighbours, so that nothing is left to measure."""
        return self.meets is not None and self.fails is not None and self.fails - self.meets == 1


def bracket(shares: Mapping[int, float], target: float) -> Bracket:
    """From attainment by step. Of steps above the first that fails none counts: a higher rate that
    did better was luck."""
    failed = [step for step, share in shares.items() if share < target]
    fails = min(failed) if failed else None
    met = [step for step in shares if fails is None or step < fails]
    return Bracket(max(met) if met else None, fails)


def next_step(
    shares: Mapping[int, float], targets: Sequence[float], starts: Sequence[int], stride: int
) -> int | None:
    """The next step to measure; None when every target is enclosed, or out of reach.

    Args:
        shares: attainment by step of this side, workload and seed, so far.
        starts: where to look first for each target.
        stride: how far to go while a target is not enclosed.
    """
    if len(shares) >= MAX_RUNS:
        return None
    for target, start in zip(targets, starts, strict=True):
        found = bracket(shares, target)
        if found.closed or (found.fails is not None and found.fails <= LOWEST_STEP):
            continue
        if found.meets is None and found.fails is None:
            return start
        if found.fails is None:
            assert found.meets is not None  # one of them is there
            return found.meets + stride
        if found.meets is None:
            return max(found.fails - stride, LOWEST_STEP)
        return (found.meets + found.fails) // 2
    return None


def goodput(shares: Mapping[int, float], rates: Mapping[int, float], target: float) -> float | None:
    """The rate at which attainment falls below `target`, on a line between the two neighbours.

    Returns:
        None while the target is not enclosed; 0 if the lowest step of all fails it.
    """
    found = bracket(shares, target)
    if found.meets is None:
        return 0.0 if found.fails is not None and found.fails <= LOWEST_STEP else None
    if found.fails is None:
        return None
    above, below = shares[found.meets], shares[found.fails]
    low, high = rates[found.meets], rates[found.fails]
    return low + (high - low) * (above - target) / (above - below)
