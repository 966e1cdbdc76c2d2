"""Numbers on streams: what was lost, what came twice, what is a new beginning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rondo.bus.sequence import Duplicate, Gap, Sequencer, SequenceTracker


def test_streams_are_numbered_apart() -> None:
    sequencer = Sequencer()
    assert [sequencer.next("a"), sequencer.next("a"), sequencer.next("b")] == [0, 1, 0]
    assert sequencer.next("a") == 2


def test_gap_and_duplicate() -> None:
    tracker = SequenceTracker()
    assert tracker.observe("w", "a", 5) is None, "a receiver may join late"
    assert tracker.observe("w", "a", 6) is None
    assert tracker.observe("w", "a", 9) == Gap(expected=7, got=9)
    assert tracker.observe("w", "a", 10) is None
    assert tracker.observe("w", "a", 8) == Duplicate(expected=11, got=8)
    assert tracker.observe("w", "a", 10) == Duplicate(expected=11, got=10)
    assert tracker.observe("w", "a", 11) is None


def test_both_sides_know_the_number_to_come() -> None:
    sequencer, tracker = Sequencer(), SequenceTracker()
    assert tracker.expected("w", "a") is None
    for _ in range(3):
        number = sequencer.upcoming("w")
        assert number == sequencer.next("w")
        assert tracker.observe("w", "a", number) is None
        assert tracker.expected("w", "a") == sequencer.upcoming("w") == number + 1
    assert tracker.expected("w", "b") is None, "another incarnation has said nothing yet"
    assert tracker.observe("w", "a", 9) == Gap(expected=3, got=9)
    assert tracker.expected("w", "a") == 10


def test_new_incarnation_starts_anew() -> None:
    tracker = SequenceTracker()
    assert tracker.observe("w", "a", 41) is None
    assert tracker.observe("w", "b", 0) is None
    assert tracker.observe("w", "b", 2) == Gap(expected=1, got=2)


def test_streams_are_followed_apart() -> None:
    tracker = SequenceTracker()
    assert tracker.observe("v", "a", 0) is None
    assert tracker.observe("w", "a", 3) is None
    assert tracker.observe("v", "a", 1) is None
    assert tracker.observe("w", "a", 5) == Gap(expected=4, got=5)


def test_forgotten_stream_begins_again() -> None:
    tracker = SequenceTracker()
    assert tracker.observe("w", "a", 3) is None
    tracker.forget("w")
    tracker.forget("never-seen")
    assert tracker.observe("w", "a", 9) is None


def test_lost_beginning_is_a_gap_where_nobody_can_join_late() -> None:
    tracker = SequenceTracker(from_first=True)
    assert tracker.observe("w", "a", 2) == Gap(expected=0, got=2)
    assert tracker.observe("w", "b", 0) is None
    assert tracker.observe("w", "c", 1) == Gap(expected=0, got=1)


@given(st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_every_loss_is_seen_once(count: int, lost: set[int]) -> None:
    sequencer, tracker = Sequencer(), SequenceTracker(from_first=True)
    numbers = [sequencer.next() for _ in range(count)]
    seen = [tracker.observe("s", "a", number) for number in numbers if number not in lost]
    gaps = [item for item in seen if isinstance(item, Gap)]
    noticed = [number for gap in gaps for number in range(gap.expected, gap.got)]
    received = [number for number in numbers if number not in lost]
    assert noticed == [n for n in numbers if n in lost and received and n < received[-1]]
    assert not any(isinstance(item, Duplicate) for item in seen)
