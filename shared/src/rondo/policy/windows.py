"""What the owners of macro-instances count becomes windows, for the trigger of scaling."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.policy.capacity import used_share
from rondo.policy.load_memory import Window
from rondo.types import MacroLoad


class LoadWindows:
    """Differences of counts, over all macro-instances of a model. Pure."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, MacroLoad]] = {}
        self._last_s: float | None = None

    def close(
        self, loads: Iterable[tuple[str, int, MacroLoad]], num_instances: int, at_s: float
    ) -> Window | None:
        """The window from the last call until now; None for the first, which only looks.

        Args:
            loads: (macro-instance, epoch of its owner, load) for each. A new epoch counts from 0.
        """
        served, refused, ttft_s, limit_s, running = 0, 0, 0.0, 0.0, 0
        saved_s, rates = 0.0, []
        now: dict[str, tuple[int, MacroLoad]] = {}
        for macro_id, epoch, load in loads:
            now[macro_id] = epoch, load
            last_epoch, last = self._last.get(macro_id, (epoch, MacroLoad()))
            if last_epoch != epoch:
                last = MacroLoad()
            served += load.num_served - last.num_served
            refused += load.num_refused - last.num_refused
            ttft_s += load.ttft_s - last.ttft_s
            limit_s += load.ttft_limit_s - last.ttft_limit_s
            if load.instance_rate is not None:
                rates.append(load.instance_rate)
            if load.saved_tpot_s is not None:
                running += load.num_running
                saved_s += load.saved_tpot_s * load.num_running
        since_s, self._last_s, self._last = self._last_s, at_s, now
        if since_s is None:
            return None
        duration_s = at_s - since_s
        return Window(
            at_s=at_s,
            duration_s=duration_s,
            num_instances=num_instances,
            mean_ttft_s=ttft_s / served if served else None,
            mean_saved_tpot_s=saved_s / running if running else None,
            ttft_limit_s=limit_s / served if served else 1.0,
            num_served=served,
            num_refused=refused,
            used_share=used_share((served + refused) / duration_s, num_instances, rates),
        )
