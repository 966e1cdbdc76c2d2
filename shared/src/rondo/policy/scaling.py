"""When to add an instance and when to take one away (EcoServe, arXiv 2504.18154, section 4.3).

The paper's triggers: mean TTFT of a window above its limit expands; mean saved TPOT above
TTFT_limit x (n + 1) / n contracts. Refused requests count as TTFT missed. Against flapping, beyond
the paper: several windows in a row have to agree; a decision has to take effect before the next;
n - 1 instances have to be predicted far from an expansion, even at the peaks of a load that varies
as it lately did; and a size that was left alone for a while was the right one for its load, so
only a load that has clearly fallen since then takes it down again.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from rondo.errors import ConfigError
from rondo.policy.load_memory import LoadMemory, Window, offered_rate

__all__ = [
    "ScalingDecision",
    "ScalingTrigger",
    "TriggerSettings",
    "Verdict",
    "Window",
]

#: Windows in a row that show together that the load has fallen, where a few cannot.
LONGEST_STREAK = 40


class Verdict(Enum):
    """What a window asks for."""

    HOLD = "hold"
    EXPAND = "expand"
    CONTRACT = "contract"


class ScalingDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    verdict: Verdict
    reason: str


class TriggerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and patience.

    expand_windows, contract_windows: so many in a row have to ask for it. cooldown_s: the least
    time between two decisions. effect_timeout_s: a decision that has had no effect for so long is
    given up. settle_windows: a size left alone for so many goes down only when the load has clearly
    fallen. refused_share: more refusals than this expand. room_share, max_used_share: contraction
    needs the TTFT predicted for n - 1 instances below this share of the limit, and their predicted
    used share below this.
    """

    min_instances: int = 1
    max_instances: int = 1024
    expand_windows: int = 1
    contract_windows: int = 3
    cooldown_s: float = 30.0
    effect_timeout_s: float = 300.0
    settle_windows: int = 20
    refused_share: float = 0.01
    room_share: float = 0.5
    max_used_share: float = 0.9

    def __post_init__(self) -> None:
        if not 1 <= self.min_instances <= self.max_instances:
            raise ConfigError("min_instances", f"{self.min_instances} is not from 1 to the maximum")
        for name in ("expand_windows", "contract_windows", "settle_windows"):
            if getattr(self, name) < 1:
                raise ConfigError(name, "must be at least 1")
        for name in ("cooldown_s", "effect_timeout_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, "must not be negative")
        for name in ("refused_share", "room_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, "must be from 0 to 1")
        if not 0 < self.max_used_share < 1:
            raise ConfigError("max_used_share", "must lie between 0 and 1")


class ScalingTrigger:
    """Takes windows in order of `at_s`, and asks for one instance more or less at a time."""

    def __init__(self, settings: TriggerSettings | None = None) -> None:
        self.settings = settings or TriggerSettings()
        self._memory = LoadMemory(self.settings.settle_windows)
        self._asked = Verdict.HOLD
        self._streak: list[Window] = []  # the last windows, which all asked for the same
        self._size: int | None = None  # number of instances when the window began
        self._target: int | None = None  # number that the last decision leads to
        self._asked_more = False
        self._decided_s = float("-inf")

    def observe(self, window: Window) -> ScalingDecision:
        """One window; a decision other than HOLD is taken to be carried out."""
        whole = self._size in (None, window.num_instances)
        self._size = window.num_instances
        if not whole:
            self._memory.resized()
        self._memory.see(window)
        if self._in_flight(window):
            return self._hold(f"{self._target} instances were asked for and are not there yet")
        verdict, reason = self._wish(window)
        if verdict is Verdict.CONTRACT and not whole:
            return self._hold("the number of instances changed within the window")
        if verdict is Verdict.HOLD:
            return self._hold(reason)
        if verdict is not self._asked:
            self._asked, self._streak = verdict, []
        self._streak.append(window)
        return self._decide(window, verdict, reason)

    def _hold(self, reason: str) -> ScalingDecision:
        self._asked, self._streak = Verdict.HOLD, []
        return self._wait(reason)

    @staticmethod
    def _wait(reason: str) -> ScalingDecision:
        return ScalingDecision(verdict=Verdict.HOLD, reason=reason)

    def _in_flight(self, window: Window) -> bool:
        """Whether the last decision has still to take effect: its instance is the one missing."""
        if self._target is None:
            return False
        before = self._target - 1 if self._asked_more else self._target + 1
        age_s = window.at_s - self._decided_s
        if window.num_instances != before or age_s >= self.settings.effect_timeout_s:
            self._target = None
        return self._target is not None

    def _decide(self, window: Window, verdict: Verdict, reason: str) -> ScalingDecision:
        settings, num = self.settings, window.num_instances
        expand = verdict is Verdict.EXPAND
        needed = settings.expand_windows if expand else settings.contract_windows
        self._streak = self._streak[-max(needed, LONGEST_STREAK) :]
        last = self._streak[-needed:]
        if len(last) < needed:
            return self._wait(f"{reason}; {len(last)} of {needed} windows")
        if window.at_s - self._decided_s < settings.cooldown_s:
            return self._wait(f"{reason}; cooling down")
        in_bounds = settings.min_instances <= num <= settings.max_instances
        if in_bounds and not expand and (objection := self._objection(num, last)):
            return self._wait(f"{reason}; but {objection}")
        self._memory.resized()
        if expand and in_bounds:
            self._memory.failed(num, last)
        self._asked_more, self._target = expand, num + (1 if expand else -1)
        self._size = num if expand else num - 1
        self._decided_s, self._streak = window.at_s, []
        return ScalingDecision(verdict=verdict, reason=reason)

    def _objection(self, num: int, last: list[Window]) -> str | None:
        """Why one of `num` may not go, although the last windows ask for it."""
        if objection := self._memory.objection(num - 1, last, self._streak):
            return objection
        peak, rate = self._memory.peak(last), offered_rate(last)
        rise = peak / rate if rate else 1.0
        if not all(self._has_room(window, num - 1, rise) for window in last):
            return f"peaks of {peak:.2f} requests/s would be too much for {num - 1}"
        return None

    # What a window asks for

    def _wish(self, window: Window) -> tuple[Verdict, str]:
        settings, num = self.settings, window.num_instances
        if num < settings.min_instances:
            return Verdict.EXPAND, f"{num} instances are below the least, {settings.min_instances}"
        if num > settings.max_instances:
            return Verdict.CONTRACT, f"{num} instances are above the most, {settings.max_instances}"
        why = self._too_slow(window)
        if why is None:
            return self._contract(window)
        if num == settings.max_instances:
            return Verdict.HOLD, f"{why}, but {num} instances are the most allowed"
        return Verdict.EXPAND, why

    def _too_slow(self, window: Window) -> str | None:
        total = window.num_served + window.num_refused
        if window.num_refused > self.settings.refused_share * total:
            return f"{window.num_refused} of {total} refused"
        if window.mean_ttft_s is not None and window.mean_ttft_s > window.ttft_limit_s:
            return f"mean TTFT {window.mean_ttft_s:.2f} s above {window.ttft_limit_s:.2f} s"
        return None

    def _contract(self, window: Window) -> tuple[Verdict, str]:
        num, saved_s = window.num_instances, window.mean_saved_tpot_s
        if num == self.settings.min_instances:
            return Verdict.HOLD, f"{num} instances are the least allowed"
        if window.num_refused:
            return Verdict.HOLD, f"{window.num_refused} refused"
        threshold_s = window.ttft_limit_s * (num + 1) / num
        # Short answers never save that much: where the load over the capacity is known, it decides.
        if window.used_share is None and saved_s is not None and saved_s <= threshold_s:
            return Verdict.HOLD, f"mean saved TPOT {saved_s:.2f} s within {threshold_s:.2f} s"
        if not self._has_room(window, num - 1):
            return Verdict.HOLD, f"{num - 1} instances would come too near to the limits"
        why = "nothing runs" if saved_s is None else f"mean saved TPOT {saved_s:.2f} s"
        if window.used_share is not None:
            why = f"{100 * window.used_share:.0f} % of what {num} can serve"
        return Verdict.CONTRACT, f"{why}, and {num - 1} instances would have room"

    def _has_room(self, window: Window, num_instances: int, rise: float = 1.0) -> bool:
        """Whether that many would serve `rise` times the window's load far from an expansion."""
        if not num_instances:
            return False
        growth = rise * window.num_instances / num_instances
        ttft_s, used = window.mean_ttft_s or 0.0, window.used_share
        if used is None:  # waiting grows faster than the load
            ttft_s *= growth**2
        elif used * growth >= self.settings.max_used_share:
            return False
        else:  # waiting grows as in a queue
            ttft_s *= (1 - used) / (1 - used * growth)
        return ttft_s <= self.settings.room_share * window.ttft_limit_s
