"""The schedulers of a pipeline that a user can choose, by name."""

from __future__ import annotations

from rondo.errors import ConfigError
from rondo.policy.tdpipe.base import PipeScheduler, PipeSetup
from rondo.policy.tdpipe.fused import FusedScheduler
from rondo.policy.tdpipe.phases import TdPipeScheduler
from rondo.policy.tdpipe.rivals import HybridScheduler, SeparateScheduler

_KINDS: dict[str, type[PipeScheduler]] = {
    "tdpipe": TdPipeScheduler,
    "tdpipe-fused": FusedScheduler,
    "pp-separate": SeparateScheduler,
    "pp-hybrid": HybridScheduler,
}
SCHEDULER_NAMES = tuple(_KINDS)


def make_scheduler(name: str, setup: PipeSetup) -> PipeScheduler:
    """A fresh scheduler for one pipeline.

    Raises:
        ConfigError: no scheduler has this name.
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise ConfigError("pipeline scheduler", f"{name!r} is not one of: {', '.join(_KINDS)}")
    return kind(setup)
