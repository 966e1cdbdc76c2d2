"""Simulated instances run any instance policy, and none of them sees how long an answer will be."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo.policy.catalog import PolicySettings
from rondo.policy.econoserve import INSTANCE_POLICY_NAMES, EconoSettings
from rondo.policy.fudg import FudgSettings
from rondo.types import Slo
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.options import add_options, cluster_of
from rondo_bench.sim.records import Arrival, RunRecord
from rondo_bench.sim.spec import ClusterSpec, LinkSpec

PROFILE = load_profile("llama-2-13b-l20-tp1")
SPEC = ClusterSpec(
    profile=PROFILE,
    policy="chunked-jsq",
    num_instances=2,
    slo=Slo(ttft_s=5.0, tpot_s=0.1),
    settings=PolicySettings(chunk_tokens=128, fudg=FudgSettings(num_prefill=1)),
    kv_tokens=3000,
    answer_limit_tokens=600,
    prediction="file",
    links=LinkSpec(link_gbps=float("inf"), intra_node_gbps=float("inf")),
)
RESERVING = ("max-length", "exact", "econoserve")


def arrivals(count: int, rate: float, error: float = 0.3, seed: int = 1) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate, count)).tolist()
    prompts = (1 + rng.poisson(120, count)).tolist()
    answers = (1 + rng.geometric(1 / 90, count).clip(max=500)).tolist()
    told = (answers * np.exp(rng.normal(0.0, error, count))).round().clip(1).astype(int).tolist()
    return [
        Arrival(request_id=f"r{i}", at_s=t, prompt_tokens=p, output_tokens=a, predicted_tokens=m)
        for i, (t, p, a, m) in enumerate(zip(at_s, prompts, answers, told, strict=True))
    ]


def run(spec: ClusterSpec, offered: list[Arrival]) -> RunRecord:
    """A run after which nothing is left on any instance."""
    cluster = SimCluster(spec)
    record = cluster.run(offered)
    for instance in cluster.instances:
        instance.scheduler.check_invariants()
        assert not instance.scheduler.board.jobs
        assert instance.scheduler.ledger.num_free == instance.scheduler.ledger.num_blocks
    return record


def fingerprint(record: RunRecord) -> str:
    lives = [
        (r.instance_id, r.first_token_s, r.decode_start_s, r.last_token_s) for r in record.requests
    ]
    return hashlib.sha256(repr(lives).encode()).hexdigest()


def preempted(record: RunRecord) -> int:
    return sum(instance.num_preempted for instance in record.instances)


@pytest.mark.parametrize("policy", ["padg", "padg-paper", "nodg-jsq", "chunked-work", "fudg"])
@pytest.mark.parametrize("instance_policy", INSTANCE_POLICY_NAMES)
def test_every_answer_has_its_length_under_every_pair(policy: str, instance_policy: str) -> None:
    spec = replace(SPEC, policy=policy, instance_policy=instance_policy, promised_share=1.5)
    record = run(spec, arrivals(40, rate=6.0))
    for each in record.requests:
        assert each.completed or each.rejected
        if each.completed:
            assert each.tokens_out == each.arrival.output_tokens
    assert sum(each.completed for each in record.requests) > 25


def test_what_is_reserved_follows_the_prediction_and_not_the_truth() -> None:
    """Two runs differ in nothing but the length of the last answer: till its end they are one."""
    offered = arrivals(40, rate=20.0, error=0.0)
    last = offered[-1]
    spec = replace(SPEC, instance_policy="econoserve", num_instances=1)

    def begun(output_tokens: int) -> list[float | None]:
        truth = msgspec.structs.replace(last, output_tokens=output_tokens, predicted_tokens=300)
        record = run(spec, [*offered[:-1], truth])
        ended_s = record.requests[-1].last_token_s
        assert ended_s is not None
        first = [each.first_token_s for each in record.requests]
        return [at_s for at_s in first if at_s is not None and at_s < ended_s]

    short, long = begun(2), begun(300)
    assert short == long[: len(short)]
    assert len(short) > 20


def test_an_answer_ends_at_its_length_as_it_would_at_its_limit() -> None:
    """Where all predictions are equal the shortest is the first, and so block growth's."""
    offered = [msgspec.structs.replace(each, predicted_tokens=100) for each in arrivals(80, 6.0)]
    plain = run(SPEC, offered)
    assert preempted(plain) == 0
    assert fingerprint(plain) == fingerprint(
        run(replace(SPEC, instance_policy="shortest-first"), offered)
    )


def test_reserving_keeps_a_tight_pool_from_preempting() -> None:
    offered, tight = arrivals(100, rate=6.0, error=0.1), replace(SPEC, kv_tokens=1000)
    growing = preempted(run(tight, offered))
    assert growing > 20
    for name in RESERVING:
        assert preempted(run(replace(tight, instance_policy=name), offered)) < growing / 4


def test_settings_reach_the_instances() -> None:
    offered = arrivals(120, rate=8.0)
    spec = replace(SPEC, instance_policy="econoserve")
    first_come = replace(spec, econo=EconoSettings(order="first-come"))
    assert fingerprint(run(spec, offered)) != fingerprint(run(first_come, offered))
    with pytest.raises(ConfigError, match="order"):
        run(replace(spec, econo=EconoSettings(order="loudest")), offered)


def test_under_padg_a_promise_of_more_than_the_pool_is_kept_by_loans() -> None:
    offered = arrivals(150, rate=6.0, error=0.1)
    padg = replace(SPEC, policy="padg")

    def served(instance_policy: str, share: float) -> tuple[int, int]:
        spec = replace(padg, instance_policy=instance_policy, promised_share=share)
        record = run(spec, offered)
        return sum(each.meets_slo for each in record.requests), preempted(record)

    alone, with_loans, without = (
        served("econoserve", 1.0),
        served("econoserve", 1.6),
        served("block-growth", 1.6),
    )
    assert with_loans[0] > alone[0]
    assert with_loans[1] < without[1]


def test_the_command_takes_an_instance_policy(tmp_path: Path) -> None:
    def spec(*more: str) -> ClusterSpec:
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_options(parser)
        given = ["--profile", "llama-2-13b-l20-tp1", "--lengths", str(tmp_path), *more]
        return cluster_of(parser.parse_args(given))

    assert spec().instance_policy == "block-growth"
    assert spec().promised_share == 1.0
    chosen = spec("--instance-policy", "econoserve", "--promised-share", "1.5")
    assert (chosen.instance_policy, chosen.promised_share) == ("econoserve", 1.5)
    with pytest.raises(argparse.ArgumentError, match="--instance-policy"):
        spec("--instance-policy", "best")
    with pytest.raises(ConfigError, match="--promised-share"):
        spec("--promised-share", "0")
