"""Instance policies by name: EconoServe (arXiv 2411.06364), its parts and its rivals."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rondo.errors import ConfigError
from rondo.policy.econoserve.ordered import ShortestFirst
from rondo.policy.econoserve.reserving import ReservingPolicy
from rondo.policy.econoserve.settings import EconoSettings
from rondo.policy.instance_policy import InstancePolicy

__all__ = ["INSTANCE_POLICY_NAMES", "EconoSettings", "make_instance_policy"]


def _max_length(settings: EconoSettings) -> InstancePolicy:
    """First come, with KV for the longest answer allowed (Orca, OSDI 2022)."""
    plain = msgspec.structs.replace(settings, order="first-come", pipelining=False, groups=0)
    plain = msgspec.structs.replace(plain, reserve_share=0.0, headroom_share=0.0)
    return ReservingPolicy("max-length", plain, longest_answers=True)


def _exact(settings: EconoSettings) -> InstancePolicy:
    """EconoServe without loans."""
    return ReservingPolicy("exact", msgspec.structs.replace(settings, pipelining=False))


_MAKERS: dict[str, Callable[[EconoSettings], InstancePolicy]] = {
    "block-growth": lambda _: InstancePolicy(),
    "shortest-first": lambda settings: ShortestFirst(settings.elder_every, settings.patience_s),
    "max-length": _max_length,
    "exact": _exact,
    "econoserve": lambda settings: ReservingPolicy("econoserve", settings),
}

INSTANCE_POLICY_NAMES = tuple(_MAKERS)
"""Names that `make_instance_policy` takes."""


def make_instance_policy(name: str, settings: EconoSettings | None = None) -> InstancePolicy:
    """A policy for one scheduler.

    Raises:
        ConfigError: no policy has this name, or a setting means nothing.
    """
    if name not in _MAKERS:
        known = ", ".join(INSTANCE_POLICY_NAMES)
        raise ConfigError("instance policy", f"{name!r} is none of {known}")
    settings = settings or EconoSettings()
    settings.check()
    return _MAKERS[name](settings)
