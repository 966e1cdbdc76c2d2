"""An instance's report: where its scheduler stands, and what happened since the last one."""

from __future__ import annotations

from rondo.policy.instance import InstanceScheduler
from rondo.policy.live import LiveScheduler
from rondo.policy.plan import StepOutcome
from rondo.types import Finished, KvSpace, Progress, StepStat

NOTHING = StepOutcome((), (), (), ())


def progress_of(
    scheduler: LiveScheduler,
    at_s: float,
    *,
    outcome: StepOutcome = NOTHING,
    finished: tuple[Finished, ...] = (),
    steps: tuple[StepStat, ...] = (),
    full: bool = False,
    peak_bytes: int = 0,
) -> Progress:
    """What worker and simulator report.

    Args:
        outcome: of the last of `steps`. finished: requests that ended otherwise than by a step.
        full: list all members, with their ages at `at_s`. peak_bytes: see `Progress`.
    """
    return Progress(
        phase=scheduler.phase,
        turn=scheduler.turn_number,
        decode_steps=scheduler.decode_steps,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        kv=scheduler.occupancy(),
        found=scheduler.board.pool.take_found(),
        prefilled=outcome.prefilled,
        started=outcome.started,
        finished=(*finished, *outcome.finished),
        steps=steps,
        members=scheduler.members(at_s) if full else None,
        peak_bytes=peak_bytes,
        space=_promised(scheduler),
    )


def _promised(scheduler: LiveScheduler) -> KvSpace | None:
    """What the instance policy has promised; None: nothing but what is in use."""
    if not isinstance(scheduler, InstanceScheduler):
        return None
    use = scheduler.space_use()
    if use.reserved == use.used and not use.kept_back and not use.num_paused:
        return None
    return KvSpace(
        owned_blocks=use.owned,
        lent_blocks=use.lent,
        borrowed_blocks=use.borrowed,
        kept_back_blocks=use.kept_back,
        num_paused=use.num_paused,
    )
