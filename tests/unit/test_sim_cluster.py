"""The simulator runs the real schedulers: nothing is lost, and a seed decides everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rondo.perf.profile import load_profile
from rondo.policy.catalog import LIVE_POLICY_NAMES
from rondo.policy.mitosis import Mitosis, MitosisSettings
from rondo.policy.padg import PadgScheduler
from rondo.policy.scaling import ScalingTrigger, TriggerSettings
from rondo.types import Slo
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.goodput import GoodputSearch
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.scaler import SimScaler
from rondo_bench.sim.spec import ClusterSpec, Fault

SPEC = ClusterSpec(
    profile=load_profile("codellama-34b-l20-tp4"),
    policy="padg",
    num_instances=4,
    slo=Slo(ttft_s=5.0, tpot_s=0.1),
)


def arrivals(count: int, rate: float, seed: int = 1, mean_prompt: int = 300) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate, count))
    prompts = 1 + rng.poisson(mean_prompt, count)
    answers = 1 + rng.poisson(60, count)
    return [
        Arrival(request_id=f"r{i}", at_s=float(t), prompt_tokens=int(p), output_tokens=int(a))
        for i, (t, p, a) in enumerate(zip(at_s, prompts, answers, strict=True))
    ]


@pytest.mark.parametrize("policy", LIVE_POLICY_NAMES)
def test_every_request_ends_and_every_block_comes_back(policy: str) -> None:
    cluster = SimCluster(replace(SPEC, policy=policy, kv_tokens=8000))
    run = cluster.run(arrivals(200, rate=30.0))
    assert len(run.requests) == 200
    for record in run.requests:
        assert record.completed or record.rejected
    for instance in cluster.instances:
        instance.scheduler.check_invariants()
        assert not instance.scheduler.board.jobs
        assert instance.record.busy_s <= run.duration_s


def test_a_tight_pool_preempts_and_still_finishes() -> None:
    run = SimCluster(replace(SPEC, policy="nodg-rr", kv_tokens=2000, answer_limit_tokens=200)).run(
        arrivals(60, 60.0)
    )
    assert all(record.completed for record in run.requests)
    assert sum(instance.num_preempted for instance in run.instances) > 0


def test_a_failed_instance_takes_only_its_own_requests() -> None:
    spec = replace(SPEC, faults=(Fault(at_s=3.0, instance=1, kind="fail"),))
    run = SimCluster(spec).run(arrivals(200, rate=20.0))
    lost = [record for record in run.requests if record.lost]
    assert lost
    assert {record.instance_id for record in lost} == {"i1"}
    assert all(r.completed or r.rejected for r in run.requests if not r.lost)
    assert all(r.instance_id != "i1" for r in run.requests if (r.admitted_s or 0.0) > 3.0)


def test_a_slow_instance_is_noticed_and_predictions_follow() -> None:
    spec = replace(SPEC, faults=(Fault(at_s=0.0, instance=0, kind="slow", factor=1.8),))
    cluster = SimCluster(spec)
    cluster.run(arrivals(300, rate=20.0))
    policy = cluster.macros["m0"].policy
    assert isinstance(policy, PadgScheduler)
    factors = [view.latency.factor(0) for view in policy.views.values()]
    assert factors[0] == pytest.approx(1.8, rel=0.01)
    assert factors[1:] == [1.0, 1.0, 1.0]


def test_a_message_delay_costs_time_and_loses_nothing() -> None:
    fast = SimCluster(SPEC).run(arrivals(150, rate=10.0))
    slow = SimCluster(replace(SPEC, message_delay_s=0.02)).run(arrivals(150, rate=10.0))
    assert all(record.completed for record in slow.requests)
    pairs = zip(slow.requests, fast.requests, strict=True)
    gains = [(s.ttft_s or 0.0) - (f.ttft_s or 0.0) for s, f in pairs]
    assert float(np.median(gains)) > 0.03  # to the coordinator, back, and on to the worker


def test_macro_instances_share_the_load() -> None:
    cluster = SimCluster(replace(SPEC, num_instances=6, num_macros=3))
    run = cluster.run(arrivals(300, rate=20.0))
    by_macro = dict.fromkeys(cluster.macros, 0)
    for record in run.requests:
        assert record.completed
        by_macro[run.instances[int(str(record.instance_id)[1:])].macro_id] += 1
    assert min(by_macro.values()) > 60


def test_a_cluster_that_scales_by_mitosis_loses_nothing() -> None:
    cluster = SimCluster(replace(SPEC, num_instances=0, num_macros=0))
    rising = arrivals(1200, rate=60.0, seed=2)
    falling = [
        Arrival(
            request_id=f"late{a.request_id}",
            at_s=rising[-1].at_s + 20 * a.at_s,
            prompt_tokens=a.prompt_tokens,
            output_tokens=a.output_tokens,
        )
        for a in rising[:200]
    ]
    scaler = SimScaler(
        cluster,
        Mitosis(MitosisSettings(n_lower=2, n_upper=3)),
        ScalingTrigger(TriggerSettings(cooldown_s=2.0, contract_windows=1)),
        start=2,
        window_s=2.0,
        startup_s=0.5,
        until_s=120.0,
    )
    run = cluster.run([*rising, *falling])
    assert len(run.requests) == 1400
    assert all(record.completed or record.rejected for record in run.requests)
    sizes = [seen.window.num_instances for seen in scaler.windows]
    assert max(sizes) > 3  # it split
    assert sizes[-1] == 1
    texts = " ".join(text for _, text in scaler.events)
    for word in ("moves", "drains", "removed", "gone"):
        assert word in texts


OUTCOME = """
import sys
sys.path.insert(0, "{root}")
from tests.unit.test_sim_cluster import SPEC, SimCluster, arrivals
run = SimCluster(SPEC).run(arrivals(150, 25.0))
print([(r.instance_id, r.ttft_s, r.tpot_s) for r in run.requests])
"""


def test_the_same_seed_gives_the_same_run_whatever_the_hash_seed(
    request: pytest.FixtureRequest,
) -> None:
    code = OUTCOME.format(root=request.config.rootpath)

    def outcome(hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert outcome("1") == outcome("2")


def test_the_search_finds_a_goodput_above_a_dip() -> None:
    def measure(rate: float, seeds: object) -> list[float]:
        share = 0.95 if rate < 2 else (1.0 if rate <= 10 else 0.5)
        return [share, share]

    found = GoodputSearch(measure, 1.0, (1, 2)).find(0.99)
    assert 9.8 <= found.rate <= 10
    assert found.dips
    assert max(found.dips) < 2
    nothing = GoodputSearch(lambda rate, seeds: [0.0], 1.0, (1,)).find(0.99)
    assert nothing.rate == 0


def test_the_command_prints_the_promised_fields(tmp_path: object) -> None:
    from rondo_bench.cli import main

    lengths = str(tmp_path) + "/lengths.csv"
    with open(lengths, "w") as file:
        file.write("num_prefill_tokens,num_decode_tokens\n100,20\n300,40\n")
    command = "simulate --profile codellama-34b-l20-tp4 --policy chunked-jsq --instances 2 --rate 5"
    more = f"--cv 1.5 --requests 40 --seed 3 --ttft-s 5 --tpot-s 0.1 --lengths {lengths} --json"
    result = subprocess.run(
        [sys.executable, "-m", main.__module__, *f"{command} {more}".split()],
        capture_output=True,
        text=True,
        check=True,
    )
    fields = json.loads(result.stdout)
    assert fields["offered"] == fields["completed"] == 40
    assert fields["rejected"] == fields["preemptions"] == 0
    assert fields["attainment"] == fields["attainment_ttft"] == fields["attainment_tpot"] == 1.0
    assert set(fields["busy_share"]) == {"i0", "i1"}
    assert 0 < fields["ttft_s"]["p50"] <= fields["ttft_s"]["p99"]
    assert 0 < fields["tpot_s"]["p50"] < 0.1
