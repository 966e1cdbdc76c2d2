"""When to add an instance and when to take one away (EcoServe, arXiv 2504.18154, section 4.3).

The paper's triggers: mean TTFT of a window above its limit expands; mean saved TPOT above
TTFT_limit x (n + 1) / n contracts. Against flapping, beyond the paper: several windows in a row
have to agree, a decision has to take effect before the next, and contraction also needs a TTFT
that leaves room for the load of the instance that goes. Refused requests count as TTFT missed.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from rondo.errors import ConfigError

#: A size that was too small is tried again when the load is below this share of what it failed at.
FALLEN_SHARE = 0.8


class Verdict(Enum):
    """What a window asks for."""

    HOLD = "hold"
    EXPAND = "expand"
    CONTRACT = "contract"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a macro-instance, or of all of one model, from `at_s - duration_s` on.

    mean_ttft_s, mean_saved_tpot_s: None where nothing was seen. ttft_limit_s: the requests' mean
    limit. num_served, num_refused: requests that began to decode, and that were refused for load.
    """

    at_s: float
    duration_s: float
    num_instances: int
    mean_ttft_s: float | None
    mean_saved_tpot_s: float | None
    ttft_limit_s: float
    num_served: int
    num_refused: int


class ScalingDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and why."""

    verdict: Verdict
    reason: str


class TriggerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and patience.

    expand_windows, contract_windows: so many in a row have to ask for it. cooldown_s: time for a
    decision to take effect. refused_share: more refusals than this expand. room_share: contraction
    needs a mean TTFT below this share of the limit, after scaling it by n / (n - 1).
    """

    min_instances: int = 1
    max_instances: int = 1024
    expand_windows: int = 1
    contract_windows: int = 3
    cooldown_s: float = 30.0
    refused_share: float = 0.01
    room_share: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.min_instances <= self.max_instances:
            raise ConfigError("min_instances", f"{self.min_instances} is not from 1 to the maximum")
        for name in ("expand_windows", "contract_windows"):
            if getattr(self, name) < 1:
                raise ConfigError(name, "must be at least 1")
        if self.cooldown_s < 0:
            raise ConfigError("cooldown_s", "must not be negative")


class ScalingTrigger:
    """Takes windows in order, and asks for one instance more or less at a time."""

    def __init__(self, settings: TriggerSettings | None = None) -> None:
        self.settings = settings or TriggerSettings()
        self._asked = Verdict.HOLD
        self._streak = 0
        self._changed_s = float("-inf")
        self._too_few = 0  # a size that was expanded, and the load that it could not serve
        self._too_few_load = 0.0

    def observe(self, window: Window) -> ScalingDecision:
        """One window; its decision is taken to be carried out."""
        verdict, reason = self._wish(window)
        self._streak = self._streak + 1 if verdict is self._asked else 1
        self._asked = verdict
        if verdict is Verdict.HOLD:
            return ScalingDecision(verdict=verdict, reason=reason)
        settings = self.settings
        needed = settings.expand_windows if verdict is Verdict.EXPAND else settings.contract_windows
        if self._streak < needed:
            waiting = f"{reason}; {self._streak} of {needed} windows"
            return ScalingDecision(verdict=Verdict.HOLD, reason=waiting)
        if window.at_s - self._changed_s < settings.cooldown_s:
            return ScalingDecision(verdict=Verdict.HOLD, reason=f"{reason}; cooling down")
        if verdict is Verdict.EXPAND:
            self._too_few, self._too_few_load = window.num_instances, self._load(window)
        self._changed_s, self._streak = window.at_s, 0
        return ScalingDecision(verdict=verdict, reason=reason)

    @staticmethod
    def _load(window: Window) -> float:
        return (window.num_served + window.num_refused) / window.duration_s

    def _wish(self, window: Window) -> tuple[Verdict, str]:
        total = window.num_served + window.num_refused
        if window.num_refused > self.settings.refused_share * total:
            return self._expand(window, f"{window.num_refused} of {total} refused")
        if window.mean_ttft_s is not None and window.mean_ttft_s > window.ttft_limit_s:
            mean = f"mean TTFT {window.mean_ttft_s:.2f} s above {window.ttft_limit_s:.2f} s"
            return self._expand(window, mean)
        return self._contract(window)

    def _expand(self, window: Window, why: str) -> tuple[Verdict, str]:
        if window.num_instances >= self.settings.max_instances:
            return Verdict.HOLD, f"{why}, but {window.num_instances} is the most allowed"
        return Verdict.EXPAND, why

    def _contract(self, window: Window) -> tuple[Verdict, str]:
        num, after = window.num_instances, window.num_instances - 1
        if num <= self.settings.min_instances:
            return Verdict.HOLD, "at the least allowed"
        threshold_s = window.ttft_limit_s * (num + 1) / num
        saved_s = window.mean_saved_tpot_s
        if saved_s is not None and saved_s <= threshold_s:
            return Verdict.HOLD, f"mean saved TPOT {saved_s:.2f} s within {threshold_s:.2f} s"
        if saved_s is None and window.num_served:
            return Verdict.HOLD, "saved TPOT is not known"
        ttft_s = (window.mean_ttft_s or 0.0) * num / after
        if ttft_s > self.settings.room_share * window.ttft_limit_s:
            return Verdict.HOLD, f"TTFT would be about {ttft_s:.2f} s with {after}"
        if after <= self._too_few and self._load(window) > FALLEN_SHARE * self._too_few_load:
            return Verdict.HOLD, f"{after} were too few for nearly this load"
        return Verdict.CONTRACT, "saved TPOT and TTFT leave room for one instance less"
