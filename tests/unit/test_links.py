"""Transfers share links fairly and end at the instant that arithmetic gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.links import Link, LinkNetwork, Transfer, max_min

SPEEDS = (10.0, 25.0, 100.0)


class Ends:
    """Sends transfers at their times and notes when each ends."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.network = LinkNetwork(self.clock)
        self.at_s: dict[str, float] = {}
        self.sent: dict[str, Transfer] = {}

    def send(
        self, name: str, at_s: float, num_bytes: float, *links: Link, early_s: float = 0
    ) -> None:
        self.clock.at(at_s, lambda _: self._send(name, num_bytes, links, early_s))

    def _send(self, name: str, num_bytes: float, links: Sequence[Link], early_s: float) -> None:
        early_bytes = num_bytes if early_s else 0.0
        self.sent[name] = self.network.send(
            links,
            num_bytes,
            lambda: self.at_s.update({name: self.clock.now_s}),
            early_bytes=early_bytes,
            early_s=early_s,
        )

    def run(self) -> dict[str, float]:
        self.clock.run()
        return self.at_s


def test_a_transfer_alone_takes_its_bytes_over_the_slowest_link() -> None:
    ends = Ends()
    ends.send("a", 2.0, 100.0, Link(50.0), Link(20.0))
    assert ends.run() == {"a": pytest.approx(7.0)}


def test_two_transfers_share_a_link_while_both_are_on_it() -> None:
    ends, link = Ends(), Link(100.0)
    ends.send("long", 0.0, 300.0, link)
    ends.send("short", 1.0, 50.0, link)
    # long: 100 alone, 50 beside short until 2 s, then the 150 that are left alone
    assert ends.run() == {"short": pytest.approx(2.0), "long": pytest.approx(3.5)}


def test_what_one_cannot_use_goes_to_the_other() -> None:
    shared, narrow = Link(100.0), Link(20.0)
    ends = Ends()
    ends.send("held back", 0.0, 20.0, shared, narrow)
    ends.send("free", 0.0, 80.0, shared)
    assert ends.run() == {"held back": pytest.approx(1.0), "free": pytest.approx(1.0)}


def test_the_two_directions_of_a_line_do_not_touch_each_other() -> None:
    ends = Ends()
    ends.send("out", 0.0, 100.0, Link(100.0), Link(100.0))
    ends.send("in", 0.0, 100.0, Link(100.0), Link(100.0))
    assert ends.run() == {"out": pytest.approx(1.0), "in": pytest.approx(1.0)}


def test_over_no_link_it_takes_no_time() -> None:
    ends = Ends()
    ends.send("a", 3.0, 1e12)
    assert ends.run() == {"a": 3.0}


def test_a_cancelled_transfer_leaves_the_link_to_the_others() -> None:
    ends, link = Ends(), Link(100.0)
    ends.send("a", 0.0, 1000.0, link)
    ends.send("b", 0.0, 100.0, link)
    ends.clock.at(1.0, lambda _: ends.network.cancel(ends.sent["a"]))
    assert ends.run() == {"b": pytest.approx(1.5)}


def test_early_bytes_go_only_through_what_was_idle() -> None:
    ends, link = Ends(), Link(100.0)
    ends.send("before", 0.0, 100.0, link)  # busy from 0 to 1
    ends.send("a", 3.0, 250.0, link, early_s=2.5)  # idle for 2 of these 2.5 s
    ends.send("b", 3.5, 100.0, link, early_s=3.0)  # a took all of it
    assert ends.run() == {
        "before": pytest.approx(1.0),
        "a": pytest.approx(3.5),
        "b": pytest.approx(4.5),
    }


transfers = st.lists(
    st.tuples(
        st.floats(0, 20),  # start
        st.floats(0.5, 500),  # bytes
        st.sets(st.integers(0, len(SPEEDS) - 1), min_size=1, max_size=2).map(sorted),
        st.sampled_from([0.0, 1.0, 5.0]),  # a prefill step before it
    ),
    min_size=1,
    max_size=8,
)


def replay(
    items: list[tuple[float, float, list[int], float]],
) -> tuple[list[Link], dict[str, float], float]:
    ends, links = Ends(), [Link(speed) for speed in SPEEDS]
    for index, (at_s, num_bytes, over, early_s) in enumerate(items):
        ends.send(f"t{index}", at_s, num_bytes, *(links[i] for i in over), early_s=early_s)
    return links, ends.run(), ends.clock.now_s


@settings(max_examples=40)
@given(items=transfers)
def test_bytes_are_conserved_and_nothing_ends_early(
    items: list[tuple[float, float, list[int], float]],
) -> None:
    links, ended, now_s = replay(items)
    assert len(ended) == len(items)
    for index, (at_s, num_bytes, over, early_s) in enumerate(items):
        alone_s = num_bytes / min(SPEEDS[i] for i in over)
        assert ended[f"t{index}"] >= max(at_s, at_s - early_s + alone_s) - 1e-2
    for number, link in enumerate(links):
        crossed = sum(n for _, n, over, _ in items if number in over)
        assert link.carried_bytes(now_s) == pytest.approx(crossed, abs=0.5)
        assert crossed <= link.bytes_per_s * now_s + 0.5
        assert link.rate == 0.0


@settings(max_examples=40)
@given(items=transfers)
def test_the_same_transfers_end_at_the_same_instants(
    items: list[tuple[float, float, list[int], float]],
) -> None:
    assert replay(items)[1:] == replay(items)[1:]


@settings(max_examples=40)
@given(routes=st.lists(st.sets(st.integers(0, 2), min_size=1).map(sorted), min_size=1, max_size=10))
def test_rates_fill_a_bottleneck_of_each_and_overfill_none(routes: list[list[int]]) -> None:
    links = [Link(speed) for speed in SPEEDS]
    sent = [Transfer([links[i] for i in route], 1.0, lambda: None) for route in routes]
    rates = dict(max_min(sent))
    used = {link: sum(r for t, r in rates.items() if link in t.links) for link in links}
    assert all(used[link] <= link.bytes_per_s * (1 + 1e-9) for link in links)
    for transfer, rate in rates.items():
        bottlenecks = [
            link
            for link in transfer.links
            if math.isclose(used[link], link.bytes_per_s)
            and rate >= max(r for t, r in rates.items() if link in t.links) * (1 - 1e-9)
        ]
        assert bottlenecks
