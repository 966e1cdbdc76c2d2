"""A pipeline's steps as an instance reports them: what each took of the pipe, decodes by rounds.

Several steps are in the pipe at a time, so one takes of it what lies between the end of the step
before it and its own. And a report's decode step gives every request that decodes one token
(`Progress.decode_steps`), which here takes a step of each of the P batches: a round. Told so, a
pipeline keeps the promises of an instance that runs one step at a time, and whoever predicts its
steps learns the time in which all its requests come on by a token.
"""

from __future__ import annotations

from collections.abc import Sequence

from rondo.policy.plan import StepPlan
from rondo.types import Phase, StepStat


class Rounds:
    """Counts rounds and collects what is to be told of steps. Instants are the caller's."""

    def __init__(self, num_batches: int) -> None:
        self.num = 0
        """Rounds so far."""
        self._num_batches = num_batches
        self._slots: list[int] = []  # of the present round
        self._parts: list[StepStat] = []
        self._told: list[StepStat] = []
        self._landed_s = float("-inf")

    def land(
        self, plan: StepPlan, slot: int | None, began_s: float, at_s: float, *, timed: bool
    ) -> None:
        """A step is back that went into the pipe at `began_s`; `slot` is the batch that decoded in
        it. Where not `timed`, its time says nothing."""
        duration_s = at_s - max(began_s, self._landed_s)
        self._landed_s = at_s
        stats = [plan.stat(duration_s)] if timed else []
        if slot is None:
            self._told += stats
            return
        if slot in self._slots:
            self.close()
        self._slots.append(slot)
        self._parts += stats
        if len(self._slots) == self._num_batches:
            self.close()

    def close(self) -> None:
        """The round is over: the next batch begins another one, or the pipe is empty."""
        if not self._slots:
            return
        self.num += 1
        if len(self._parts) == len(self._slots):
            self._told.append(_joined(self._parts))
        self._slots, self._parts = [], []

    def take(self) -> tuple[StepStat, ...]:
        """Steps and whole rounds since the last call, in order."""
        told, self._told = tuple(self._told), []
        return told


def _joined(parts: Sequence[StepStat]) -> StepStat:
    """One step that did what all parts did."""
    prompt_tokens = sum(part.prompt_tokens for part in parts)
    return StepStat(
        Phase.FUSED if prompt_tokens else Phase.DECODE,
        sum(part.duration_s for part in parts),
        sum(part.num_sequences for part in parts),
        sum(part.num_tokens for part in parts),
        prompt_tokens,
        sum(part.pairs for part in parts),
        sum(part.num_decodes for part in parts),
        sum(part.context_tokens for part in parts),
        sum(part.background_tokens for part in parts),
    )
