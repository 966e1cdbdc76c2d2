"""The rules of a lease: when to claim a macro-instance, renew the claim, and give it up. Pure.

Events say what happened and when, on this contender's own monotonic clock; effects say what to do.

Why no two contenders own at once. A claim is written by compare-and-set. Its writer owns for
`hold_s` from the instant *before* it sent the write; everybody else takes over no earlier than
`lease_s` after it first saw that very revision, which cannot be before it was written, and only
if the store still has that revision. So the next owner begins after the last one's time is over,
as long as a hold on the slowest clock ends before a lease on the fastest: HOLD_SHARE leaves room
for clocks that are up to 2.5 % off, each way. Messages may be late, lost or out of order as they
like. The store must keep what it has acknowledged; when it loses everything, who saw an owner
before waits a lease out, but a contender that starts then cannot know that somebody owns.

A process that is stopped and goes on later may act for a moment on time that is over: `expires_s`
tells who asks, and workers refuse what comes under an older epoch.
"""

from __future__ import annotations

import math

from rondo_coordinator.lease_events import (
    Acquired,
    Claim,
    Decision,
    Effect,
    Ended,
    Event,
    Failed,
    Found,
    Lost,
    Read,
    Saw,
    Stop,
    Touch,
    Write,
    WriteConflict,
    WriteOk,
)

#: An owner renews this many times per lease.
BEATS_PER_LEASE = 5
#: The part of a lease for which its owner trusts it, by its own clock.
HOLD_SHARE = 0.95
TAKEN_OVER = "another coordinator took over"
NOT_RENEWED = "not renewed in time"


class LeaseRules:
    """One contender. It has one read or write underway at most.

    Args:
        owner_id: what its claims say.
        first_beat: a random number, so that nobody else's claims can be taken for ours, not
            even those of an earlier process of the same id.
    """

    def __init__(self, owner_id: str, lease_s: float, first_beat: int) -> None:
        self._owner_id = owner_id
        self._lease_s = lease_s
        self._hold_s = lease_s * HOLD_SHARE
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._first_beat = self._beat = self._known_beat = first_beat
        self._claim: Claim | None = None  # the last that is known
        self._revision = 0
        self._top_epoch = 0
        self._free_s = -math.inf  # from when on the known claim may be replaced
        self._underway: Write | Read | None = None
        self._sent: dict[int, float] = {}  # beat -> when; writes that may yet prove to be made
        self._wrote_s = self._read_s = -math.inf
        self._must_read = self._touched = self._asked = False
        self._owned = self._stopping = self._ended = False
        self._effects: list[Effect] = []
        self.epoch = 0
        """The last one that was acquired."""
        self.expires_s = -math.inf
        """Ownership ends then at the latest, on this contender's clock."""

    @property
    def owned(self) -> bool:
        """Whether to act, before `expires_s`."""
        return self._owned and not self._stopping

    def handle(self, event: Event) -> Decision:
        """Takes one event in and says what to do."""
        self._effects = []
        at_s = event.at_s
        if self._owned and at_s >= self.expires_s:
            self._lose(NOT_RENEWED)
        match event:
            case Saw(claim=claim, revision=revision):
                self._see(claim, revision, at_s)
            case Found(claim=claim, revision=revision):
                self._find(claim, revision, at_s)
            case WriteOk(revision=revision):
                self._written(revision, at_s)
            case WriteConflict():
                self._refused()
            case Failed():
                self._underway = None
            case Touch():
                self._touched = self._owned
            case Stop():
                self._stopping = True
        self._act(at_s)
        return Decision(tuple(self._effects), self._wake_at_s())

    # What is known

    def _see(self, claim: Claim | None, revision: int, at_s: float) -> None:
        if claim and self._is_ours(claim):
            if claim.beat > self._known_beat:  # else the watch is behind
                self._confirm(claim, revision, at_s)
        elif self._owned:
            # Anything but a successor is from before our time, or our next renewal will tell.
            if claim and claim.epoch > self.epoch:
                self._learn(claim, revision, at_s)
                self._lose(TAKEN_OVER)
        elif revision < self._revision:
            self._must_read = True  # out of order, or of a store that began anew
        else:
            self._learn(claim, revision, at_s)

    def _find(self, claim: Claim | None, revision: int, at_s: float) -> None:
        self._underway = None
        self._must_read = False
        if claim and self._is_ours(claim):
            self._confirm(claim, revision, at_s)
            return
        if self._owned:
            self._lose(TAKEN_OVER)
        self._learn(claim, revision, at_s)

    def _written(self, revision: int, at_s: float) -> None:
        write, self._underway = self._underway, None
        assert isinstance(write, Write)  # nothing else is answered so
        if not write.claim.owner_id:
            return
        if self._top_epoch <= write.claim.epoch:  # else somebody has come after us already
            self._confirm(write.claim, revision, at_s)

    def _refused(self) -> None:
        write, self._underway = self._underway, None
        assert isinstance(write, Write)
        self._sent = {beat: s for beat, s in self._sent.items() if beat != write.claim.beat}
        if not write.claim.owner_id:
            return
        # An earlier write of ours that nobody confirmed may be what is in the way.
        if self._owned and not self._sent:
            self._lose(TAKEN_OVER)
        self._must_read = True

    def _confirm(self, claim: Claim, revision: int, at_s: float) -> None:
        """A claim of ours is in the store, so that none before it can get there any more."""
        sent_s = self._sent.get(claim.beat, -math.inf)
        self._sent = {beat: s for beat, s in self._sent.items() if beat > claim.beat}
        self._known_beat = max(self._known_beat, claim.beat)
        self._learn(claim, revision, at_s)
        expires_s = sent_s + self._hold_s
        if at_s >= expires_s:
            return
        if self._owned and claim.epoch == self.epoch:
            self.expires_s = max(self.expires_s, expires_s)
        elif claim.epoch > self.epoch:  # one that was lost does not come back
            self._owned, self.epoch, self.expires_s = True, claim.epoch, expires_s
            if not self._stopping:
                self._effects.append(Acquired(claim.epoch))

    def _learn(self, claim: Claim | None, revision: int, at_s: float) -> None:
        if (claim, revision) == (self._claim, self._revision):
            return
        self._claim, self._revision = claim, revision
        if claim is None:  # who owned may go on until its lease is over
            return
        self._top_epoch = max(self._top_epoch, claim.epoch)
        if not claim.owner_id:
            self._free_s = self._wrote_s = -math.inf
        elif self._is_ours(claim):
            self._free_s = -math.inf
        else:
            self._free_s = at_s + self._lease_s

    def _is_ours(self, claim: Claim) -> bool:
        return claim.owner_id == self._owner_id and self._first_beat < claim.beat <= self._beat

    def _lose(self, why: str) -> None:
        self._owned = self._touched = False
        if not self._stopping:
            self._effects.append(Lost(why))

    # What to do

    def _act(self, at_s: float) -> None:
        if self._ended or self._underway:
            return
        if self._stopping:
            self._leave(at_s)
        elif at_s >= self._next_s():
            if self._must_read:
                self._read(at_s)
            else:
                epoch = self.epoch if self._owned else max(self.epoch, self._top_epoch) + 1
                self._write(self._owner_id, epoch, at_s)

    def _leave(self, at_s: float) -> None:
        if self._owned and self._sent and not self._asked:
            self._asked = True  # which revision is ours
            self._read(at_s)
        elif self._owned:
            self._owned = False
            self._write("", self.epoch, at_s)
        else:
            self._ended = True
            self._effects.append(Ended())

    def _read(self, at_s: float) -> None:
        self._read_s = at_s
        self._underway = Read()
        self._effects.append(self._underway)

    def _write(self, owner_id: str, epoch: int, at_s: float) -> None:
        self._beat += 1
        self._touched = False
        self._wrote_s = at_s
        self._sent = {beat: s for beat, s in self._sent.items() if s + self._lease_s > at_s}
        self._sent[self._beat] = at_s
        self._underway = Write(Claim(owner_id, epoch, self._beat), self._revision)
        self._effects.append(self._underway)

    def _next_s(self) -> float:
        """When the next read or write is due."""
        if self._must_read:
            return self._read_s + self._beat_s
        if self._touched:
            return -math.inf
        due_s = self._wrote_s + self._beat_s
        return due_s if self._owned else max(due_s, self._free_s)

    def _wake_at_s(self) -> float | None:
        if self._ended:
            return None
        wake_s = self.expires_s if self._owned else math.inf
        if not self._underway:
            wake_s = min(wake_s, self._next_s())
        return wake_s if math.isfinite(wake_s) else None
