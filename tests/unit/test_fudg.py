"""Full disaggregation in the simulator: prefill here, decode there, the KV moved once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.errors import ConfigError
from rondo.perf.profile import LatencyProfile
from rondo.policy import events
from rondo.policy.catalog import PolicySettings
from rondo.policy.events import Decision, Event, MacroScheduler
from rondo.policy.fudg import FudgScheduler, FudgSettings, spread
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import Slo
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.records import Arrival, RunRecord
from rondo_bench.sim.spec import ClusterSpec, Fault, LinkSpec
from rondo_bench.sim.wrapped import WrappedPolicy

PROFILE = LatencyProfile(
    name="test",
    source="made up: 10 ms floor, 0.1 ms a prompt token, 20 ms decode",
    prefill_floor_ms=(10.0, 0.0),
    prefill_line_ms=(5.0, 0.1),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(20.0, 0.1, 0.0),
)
LINKS = LinkSpec(link_gbps=1.0, intra_node_gbps=2.0, kv_bytes_per_token=50_000)
SPEC = ClusterSpec(
    profile=PROFILE,
    policy="fudg",
    num_instances=4,
    slo=Slo(ttft_s=5.0, tpot_s=0.1),
    settings=PolicySettings(fudg=FudgSettings(num_prefill=2)),
    kv_tokens=16_000,
    cpu_ms=0.0,
    answer_limit_tokens=600,
    prediction="exact",
    links=LINKS,
)


class Watched(WrappedPolicy):
    """A policy that is checked after each event, and whose moves are counted."""

    def __init__(self, policy: MacroScheduler) -> None:
        assert isinstance(policy, FudgScheduler)
        super().__init__(policy)
        self.fudg = policy
        self.moves: list[events.MoveKv] = []
        self.observed: list[events.Observed] = []

    def handle(self, event: Event) -> Decision:
        decision = super().handle(event)
        self.check_invariants()
        self.moves += [e for e in decision.effects if isinstance(e, events.MoveKv)]
        self.observed += [e for e in decision.effects if isinstance(e, events.Observed)]
        return decision


def arrivals(lengths: Sequence[tuple[int, int]], gap_s: float = 0.05) -> list[Arrival]:
    return [
        Arrival(request_id=f"r{i}", at_s=i * gap_s, prompt_tokens=prompt, output_tokens=output)
        for i, (prompt, output) in enumerate(lengths)
    ]


def serve(spec: ClusterSpec, offered: list[Arrival]) -> tuple[SimCluster, RunRecord, Watched]:
    cluster = SimCluster(spec)
    watched = Watched(cluster.macros["m0"].policy)
    cluster.macros["m0"].policy = watched
    return cluster, cluster.run(offered), watched


def assert_all_free(cluster: SimCluster) -> None:
    """Neither the instances nor the policy's beliefs of them hold anything."""
    watched = cluster.macros["m0"].policy
    assert isinstance(watched, Watched)
    for view in watched.fudg.views.values():
        assert view.num_requests == 0
        assert view.blocks.needed() == view.blocks.used_blocks
    for instance in cluster.instances:
        if instance.alive:
            instance.scheduler.check_invariants()
            kv = instance.scheduler.occupancy()
            assert (kv.used_blocks, kv.reserved_blocks) == (0, 0)
            assert not instance.requests


def roles(cluster: SimCluster) -> tuple[list[str], list[str]]:
    """Prefill and decode instances."""
    hands_over = {i.info.instance_id: i.scheduler.hands_over for i in cluster.instances}
    return [i for i, yes in hands_over.items() if yes], [
        i for i, yes in hands_over.items() if not yes
    ]


def mean_ttft_s(run: RunRecord) -> float:
    spans_s = [record.ttft_s for record in run.requests]
    return sum(span_s or 0.0 for span_s in spans_s) / len(spans_s)


def test_every_request_is_prefilled_on_one_side_and_decoded_on_the_other() -> None:
    offered = arrivals([(100 + 37 * i % 900, 2 + i % 40) for i in range(60)])
    cluster, run, watched = serve(SPEC, offered)
    assert all(record.completed for record in run.requests)
    assert roles(cluster) == (["i0", "i1"], ["i2", "i3"])
    assert all(record.decode_s == record.fused_s == 0 for record in run.instances[:2])
    assert all(record.prefill_s == record.fused_s == 0 for record in run.instances[2:])
    assert Counter(m.request_id for m in watched.moves) == {a.request_id: 1 for a in offered}
    assert {m.source_id for m in watched.moves} == {"i0", "i1"}
    assert {m.target_id for m in watched.moves} == {"i2", "i3"}
    assert_all_free(cluster)


def test_an_answer_of_one_token_ends_without_a_move() -> None:
    cluster, run, watched = serve(SPEC, arrivals([(300, 1), (300, 2)]))
    assert [record.completed for record in run.requests] == [True, True]
    assert [move.request_id for move in watched.moves] == ["r1"]
    assert_all_free(cluster)


def test_ttft_counts_prefill_and_transfer() -> None:
    """500 tokens: 55 ms of prefill, then 25 MB over 1 Gbit/s (no overlap) take 200 ms."""
    links = replace(LINKS, instances_per_node=1, kv_overlap=0.0)
    _, run, _ = serve(replace(SPEC, links=links), arrivals([(500, 5)]))
    assert run.requests[0].ttft_s == pytest.approx(0.255)
    assert run.requests[0].tpot_s == pytest.approx(4 * 0.0201 / 4)


def test_an_overlapped_transfer_hides_behind_its_prefill() -> None:
    """Of 200 ms, 55 are over when the prompt is done."""
    links = replace(LINKS, instances_per_node=1, kv_overlap=1.0)
    _, run, _ = serve(replace(SPEC, links=links), arrivals([(500, 5)]))
    assert run.requests[0].ttft_s == pytest.approx(0.2)


def test_a_node_of_both_roles_keeps_the_kv_inside() -> None:
    cluster, _, watched = serve(SPEC, arrivals([(500, 5)] * 10, gap_s=1.0))
    assert spread(4, 2) == (0, 1, 0, 1)
    assert {(m.source_id, m.target_id) for m in watched.moves} <= {("i0", "i2"), ("i1", "i3")}
    assert_all_free(cluster)


def test_without_a_bottleneck_requests_start_sooner() -> None:
    offered = arrivals([(800, 20)] * 40)
    _, slow, _ = serve(SPEC, offered)
    _, ideal, _ = serve(replace(SPEC, links=replace(LINKS, link_gbps=float("inf"))), offered)
    assert mean_ttft_s(ideal) < 0.7 * mean_ttft_s(slow)
    assert all(record.completed for record in (*slow.requests, *ideal.requests))


def test_a_full_decode_side_throttles_the_prefill_side_and_loses_nothing() -> None:
    """One decode instance with room for two of the requests at a time."""
    spec = replace(
        SPEC,
        num_instances=2,
        kv_tokens=1_000,
        settings=PolicySettings(fudg=FudgSettings(num_prefill=1)),
    )
    cluster, run, watched = serve(spec, arrivals([(300, 100)] * 12, gap_s=0.01))
    assert all(record.completed for record in run.requests)
    assert len(watched.moves) == 12
    assert all(record.num_preempted == 0 for record in run.instances)
    begun = sorted(record.decode_start_s or 0.0 for record in run.requests)
    assert begun[-1] - begun[0] > 5 * 99 * 0.02  # five pairs went before the last
    assert_all_free(cluster)


def test_what_had_reached_a_failed_instance_is_forgotten_everywhere() -> None:
    """Its source has the KV no more, and no step had told the policy: 255 to 275 ms."""
    links = replace(LINKS, instances_per_node=1, kv_overlap=0.0)
    faults = (Fault(at_s=0.26, instance=2, kind="fail"),)
    spec = replace(SPEC, links=links, faults=faults)
    cluster, run, watched = serve(spec, arrivals([(500, 5)]))
    assert run.requests[0].lost
    assert [move.target_id for move in watched.moves] == ["i2", "i3"]
    assert_all_free(cluster)


def test_moves_to_a_full_instance_wait_for_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy whose belief is out of date orders more than fits."""
    monkeypatch.setattr(FudgScheduler, "_has_room", lambda *_: True)
    spec = replace(SPEC, kv_tokens=1_000)
    cluster, run, _ = serve(spec, arrivals([(390, 20)] * 12, gap_s=0.01))
    assert all(record.completed for record in run.requests)
    assert_all_free(cluster)


def test_answers_longer_than_predicted_are_recomputed_where_they_decode() -> None:
    """The first prediction is 256 tokens: three fit by it, not by what they turn out to be."""
    spec = replace(
        SPEC,
        num_instances=2,
        kv_tokens=1_200,
        prediction="mean",
        settings=PolicySettings(fudg=FudgSettings(num_prefill=1)),
    )
    cluster, run, watched = serve(spec, arrivals([(100, 600)] * 3, gap_s=0.01))
    assert all(record.completed for record in run.requests)
    assert len(watched.moves) == 3
    assert run.instances[1].num_preempted > 0
    assert_all_free(cluster)


@pytest.mark.parametrize("failed", [0, 3])
def test_a_failure_loses_only_what_the_instance_held(failed: int) -> None:
    faults = (Fault(at_s=1.5, instance=failed, kind="fail"),)
    spec = replace(SPEC, faults=faults, links=replace(LINKS, intra_node_gbps=1.0))
    cluster, run, watched = serve(spec, arrivals([(500, 30)] * 60))
    lost = [record for record in run.requests if record.lost]
    assert 0 < len(lost) < 30
    assert all(record.completed for record in run.requests if not record.lost)
    assert_all_free(cluster)
    again = [r for r, count in Counter(m.request_id for m in watched.moves).items() if count > 1]
    aborted = {m.request_id for m in watched.moves if m.target_id == f"i{failed}"}
    assert set(again) <= aborted
    assert bool(again) == (failed == 3)  # what was on its way there goes elsewhere
    begun = Counter(o.request_id for o in watched.observed if o.actual_ttft_s is not None)
    assert all(begun[r.arrival.request_id] == 1 for r in run.requests if not r.lost)


def test_a_transfer_keeps_its_blocks_when_a_decode_needs_some() -> None:
    """The pool is full with one that decodes and one that is expected, which is the younger."""

    def job(request_id: str, prompt_tokens: int) -> Job:
        return Job(request_id, prompt_tokens, 40, 40, SPEC.slo, arrival_s=0.0)

    scheduler = InstanceScheduler(KvLedger(4, 16), max_running=8, max_prefill_tokens=64)
    scheduler.add(job("old", 24))
    scheduler.grant(1, ["old"], 60.0, 0.0)
    prefill = scheduler.plan(0.0)
    assert prefill is not None
    scheduler.advance(prefill)
    moved = replace(job("moved", 32), tokens_out=1, cached=32)
    assert scheduler.board.expect(moved)
    assert not scheduler.board.expect(replace(job("too much", 32), tokens_out=1, cached=32))
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 0)
    while step := scheduler.plan(1.0):
        scheduler.advance(step)
        scheduler.check_invariants()
    assert (scheduler.num_preempted, scheduler.num_waiting) == (1, 1)
    assert scheduler.ledger.held("moved") == 2
    scheduler.board.land("moved")
    decode = scheduler.plan(2.0)
    assert decode is not None
    assert [item.request_id for item in decode.decodes] == ["moved"]


def test_too_few_instances_for_both_roles_is_refused() -> None:
    with pytest.raises(ConfigError, match="--prefill-instances"):
        SimCluster(replace(SPEC, num_instances=2))


def test_moving_kv_of_unknown_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="--kv-bytes-per-token"):
        SimCluster(replace(SPEC, links=LinkSpec()))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 120)), min_size=1, max_size=25),
    num_prefill=st.integers(1, 3),
    per_node=st.integers(1, 4),
    kv_tokens=st.sampled_from([1_100, 2_500, 16_000]),
    prediction=st.sampled_from(["mean", "exact"]),
    delay_s=st.sampled_from([0.0, 0.003]),
)
def test_each_request_ends_once_whatever_the_split(
    lengths: list[tuple[int, int]],
    num_prefill: int,
    per_node: int,
    kv_tokens: int,
    prediction: str,
    delay_s: float,
) -> None:
    spec = replace(
        SPEC,
        settings=PolicySettings(fudg=FudgSettings(num_prefill=num_prefill)),
        links=replace(LINKS, instances_per_node=per_node),
        kv_tokens=kv_tokens,
        answer_limit_tokens=120,
        prediction=prediction,
        message_delay_s=delay_s,
    )
    offered = arrivals(lengths, gap_s=0.01)
    cluster, run, watched = serve(spec, offered)
    assert all(record.completed for record in run.requests)
    moved = [a.request_id for a in offered if a.output_tokens > 1]
    assert Counter(m.request_id for m in watched.moves) == dict.fromkeys(moved, 1)
    assert all(record.decode_s == record.fused_s == 0 for record in run.instances[:num_prefill])
    assert_all_free(cluster)
