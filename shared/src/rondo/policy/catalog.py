"""The policies a user can choose, by name."""

from __future__ import annotations

import msgspec

from rondo.errors import ConfigError
from rondo.policy.events import MacroScheduler
from rondo.policy.fudg import FudgScheduler, FudgSettings
from rondo.policy.macro import QueueSettings
from rondo.policy.nodg import NodgScheduler, Routing
from rondo.policy.padg import PadgScheduler, PadgSettings
from rondo.policy.padg_lengths import LengthPadgScheduler
from rondo.policy.padg_paper import PaperPadgScheduler, PaperSettings
from rondo.types import Batching, BatchKind

#: Policies that a live cluster can run.
LIVE_POLICY_NAMES = (
    "padg",
    "padg-paper",
    "nodg-rr",
    "nodg-jsq",
    "nodg-work",
    "chunked-rr",
    "chunked-jsq",
    "chunked-work",
)
#: All of them: `fudg` needs KV that moves between instances, which only the simulator has.
POLICY_NAMES = (*LIVE_POLICY_NAMES, "fudg")


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What any policy may be told.

    chunk_tokens: token budget of a chunked step. padg, paper, fudg: knobs of `padg`,
    `padg-paper` and `fudg`.
    """

    queue: QueueSettings = QueueSettings()
    chunk_tokens: int = 512
    padg: PadgSettings = PadgSettings()
    paper: PaperSettings = PaperSettings()
    fudg: FudgSettings = FudgSettings()


def make_policy(name: str, settings: PolicySettings | None = None) -> MacroScheduler:
    """A fresh scheduler for one macro-instance.

    Raises:
        ConfigError: no policy has this name.
    """
    settings = settings or PolicySettings()
    queue = settings.queue
    match name.split("-"):
        case ["padg"]:
            chosen = LengthPadgScheduler if settings.padg.length_classes > 1 else PadgScheduler
            return chosen(settings=settings.padg, queue=queue)
        case ["padg", "paper"]:
            return PaperPadgScheduler(queue=queue, settings=settings.paper)
        case ["nodg", ("rr" | "jsq" | "work") as routing]:
            return NodgScheduler(queue=queue, routing=Routing(routing), batching=Batching())
        case ["chunked", ("rr" | "jsq" | "work") as routing]:
            batching = Batching(kind=BatchKind.CHUNKED, tokens=settings.chunk_tokens)
            return NodgScheduler(queue=queue, routing=Routing(routing), batching=batching)
        case ["fudg"]:
            return FudgScheduler(queue=queue, settings=settings.fudg)
    raise ConfigError("policy", f"{name!r} is not one of: {', '.join(POLICY_NAMES)}")
