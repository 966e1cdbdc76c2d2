"""What became of requests: decisions with their reasons, and where the time went. Bounded."""

from __future__ import annotations

from collections import OrderedDict

from rondo.types import Progress
from rondo.wire.messages import Event
from rondo_gateway.attainment import COMPLETE
from rondo_gateway.console.fields import integer, millis, number, string, strings
from rondo_gateway.console.view import Millis, Track

#: Requests remembered; the oldest are forgotten first.
MAX_TRACKS = 10_000
#: Lines of one request's story.
MAX_STORY = 40
#: Found by one search.
MAX_FOUND = 50
#: Sent with one step; a browser asks for others by their id.
MAX_SENT = 25

ENDED = ("answered", "refused", "failed")


class Tracks:
    """Requests by id, in the order in which they were first heard of."""

    def __init__(self) -> None:
        self._tracks: OrderedDict[str, Track] = OrderedDict()
        self._changed: dict[str, Track] = {}

    def take_changes(self) -> tuple[Track, ...]:
        """The newest of those that changed since the last call."""
        changed, self._changed = list(self._changed.values()), {}
        return tuple(changed[-MAX_SENT:])

    def latest(self, count: int) -> tuple[Track, ...]:
        """The newest ones, oldest first."""
        newest = list(zip(range(count), reversed(self._tracks.values()), strict=False))
        return tuple(track for _, track in reversed(newest))

    def find(self, text: str) -> list[Track]:
        """Those whose id contains `text`, newest first."""
        found: list[Track] = []
        for request_id in reversed(self._tracks):
            if text in request_id:
                found.append(self._tracks[request_id])
                if len(found) == MAX_FOUND:
                    break
        return found

    # What is heard

    def pending(self, now: Millis, event: Event) -> None:
        """A scheduler lets it wait."""
        track = self._open(now, event)
        track.prompt_tokens = integer(event, "prompt_tokens")
        for reason in strings(event, "reasons"):
            self._tell(track, now, "waits for admission", reason.partition(": ")[2] or reason)

    def admitted(self, now: Millis, event: Event) -> None:
        """A scheduler has placed it."""
        track = self._open(now, event)
        track.state = "admitted"
        track.instance, track.turn = string(event, "instance"), integer(event, "turn")
        track.predicted_ttft_ms = millis(event, "predicted_ttft_s")
        track.predicted_tpot_ms = millis(event, "predicted_tpot_s")
        reasons = "; ".join(strings(event, "reasons"))
        self._tell(track, now, f"admitted to {track.instance}, turn {track.turn}", reasons)

    def refused(self, now: Millis, event: Event) -> None:
        """A scheduler will not take it."""
        track = self._open(now, event)
        track.state, track.outcome = "refused", string(event, "reason")
        self._tell(track, now, f"refused: {track.outcome}", string(event, "detail"))

    def answered(self, now: Millis, event: Event, *, met: bool) -> None:
        """Its gateway says how it ended."""
        track = self._open(now, event, macro="")
        outcome = string(event, "outcome")
        track.outcome = outcome
        if track.state != "refused":
            track.state = "answered" if outcome in COMPLETE else "failed"
        track.model = string(event, "model")
        track.instance = string(event, "instance") or track.instance
        track.prompt_tokens = integer(event, "prompt_tokens")
        track.tokens = integer(event, "tokens")
        track.limit_ttft_ms = number(event, "limit_ttft_ms")
        track.limit_tpot_ms = number(event, "limit_tpot_ms")
        track.ledger = {
            key: value
            for key, value in event.fields.items()
            if key.endswith("_ms") and not key.startswith("limit_") and isinstance(value, float)
        }
        why = "within its limits" if met else "not within its limits"
        self._tell(track, now, f"ended: {outcome}", f"{track.tokens} tokens, {why}")

    def progressed(self, now: Millis, instance_id: str, progress: Progress) -> None:
        """An instance reports."""
        for request_id in progress.prefilled:
            self._moved(now, request_id, "prefilled", "prefilled", instance_id)
        for started in progress.started:
            self._moved(now, started.request_id, "decoding", "decode began", instance_id)
        for live in progress.members or ():
            track = self._tracks.get(live.request_id)
            if track is None:
                track = self._add(Track(id=live.request_id, at=now, instance=instance_id))
                self._tell(track, now, f"on {instance_id}", "admitted before anybody watched")
            if track.state in ENDED:
                continue
            track.tokens, track.prompt_tokens = live.tokens_out, live.prompt_tokens
            track.limit_ttft_ms = round(live.slo.ttft_s * 1000, 3)
            track.limit_tpot_ms = round(live.slo.tpot_s * 1000, 3)
            if live.decode_age_s is not None:
                track.state = "decoding"

    def _moved(self, now: Millis, request_id: str, state: str, what: str, instance_id: str) -> None:
        track = self._tracks.get(request_id)
        if track and track.state not in (*ENDED, state):
            track.state, track.instance = state, instance_id
            self._tell(track, now, what, "")

    def _open(self, now: Millis, event: Event, macro: str | None = None) -> Track:
        request_id = string(event, "request")
        track = self._tracks.get(request_id) or self._add(Track(id=request_id, at=now))
        track.macro = (event.source_id if macro is None else macro) or track.macro
        return track

    def _add(self, track: Track) -> Track:
        self._tracks[track.id] = track
        if len(self._tracks) > MAX_TRACKS:
            self._tracks.popitem(last=False)
        return track

    def _tell(self, track: Track, now: Millis, what: str, why: str) -> None:
        if len(track.story) < MAX_STORY:
            track.story.append((now, what, why))
        self._changed.pop(track.id, None)
        self._changed[track.id] = track
