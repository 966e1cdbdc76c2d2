"""The experiment on instances that replace full disaggregation: tuned, counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo_bench.experiments import instances
from rondo_bench.experiments.cases import Folders
from rondo_bench.experiments.instances import System, Trial, Tuned, cluster_of
from rondo_bench.experiments.lengths import PREDICTED_FILE
from rondo_bench.experiments.results import write
from rondo_bench.experiments.search import Job
from rondo_bench.report.data import InstancesRecord, load_results
from rondo_bench.sim.spec import ClusterSpec

FUDG = System("fudg", "block-growth", (("prefill_instances", (1, 2)),))
ECONO = System(
    "chunked-jsq",
    "econoserve",
    (("chunk_tokens", (128,)), ("order", ("first-come", "shortest"))),
)


@pytest.fixture
def lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a small file, and a small experiment."""
    rows = "\n".join(
        f"{1500 + 71 * i % 900},{(answer := 10 + 37 * i % 50)},{answer + i % 9}" for i in range(60)
    )
    header = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens"
    (tmp_path / PREDICTED_FILE).write_text(f"{header}\n{rows}\n")
    monkeypatch.setattr(instances, "RIVAL", FUDG)
    monkeypatch.setattr(instances, "NUM_INSTANCES", 3)
    monkeypatch.setattr(instances, "RUN_SEEDS", (1,))
    monkeypatch.setattr(instances, "SPAN_S", 4.0)
    monkeypatch.setattr(instances, "FINE", 1.3)
    monkeypatch.setattr(instances, "TUNING", 1.3)
    return str(tmp_path)


def test_a_setting_reaches_the_cluster() -> None:
    assert ECONO.choices() == [
        {"chunk_tokens": 128, "order": "first-come"},
        {"chunk_tokens": 128, "order": "shortest"},
    ]
    spec = cluster_of(ECONO, {"chunk_tokens": 256, "order": "first-come"}, 5)
    assert (spec.num_instances, spec.instance_policy) == (5, "econoserve")
    assert (spec.settings.chunk_tokens, spec.econo.order) == (256, "first-come")
    split = cluster_of(FUDG, {"prefill_instances": 2, "promised_share": 1.5})
    assert split.settings_of(8).fudg.num_prefill == 2
    assert split.promised_share == 1.5
    assert split.instance_policy == "block-growth"


def attained(system: System, tuned: Tuned, num: int, rate: float, lengths: str) -> float:
    return Trial(cluster_of(system, tuned, num), "file", lengths).attainment(rate)


def test_the_rival_is_tuned_and_the_fewest_that_hold_its_rate_are_counted(lengths: str) -> None:
    [rival] = instances.measure_rival(0.9, "file", lengths)
    rate = rival["rate"]
    assert rival["tuned"] in FUDG.choices()
    assert rival["attainment"] == pytest.approx(attained(FUDG, rival["tuned"], 3, rate, lengths))
    assert attained(FUDG, rival["tuned"], 3, 2 * rate, lengths) < 0.9 <= rival["attainment"]
    [found] = instances.count(ECONO, 0.9, "file", rate, lengths)
    num = found["instances"]
    assert 1 < num < instances.MOST_INSTANCES
    assert attained(ECONO, found["tuned"], num, rate, lengths) >= 0.9
    assert all(attained(ECONO, each, num - 1, rate, lengths) < 0.9 for each in ECONO.choices())


@pytest.mark.parametrize("least", [1, 2, 3, 5, 7])
def test_the_fewest_are_looked_for_on_both_sides(
    least: int, lengths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told:
        def __init__(self, cluster: ClusterSpec, *_: str) -> None:
            self.cluster = cluster

        def attainment(self, rate: float, target: float) -> float:
            """Only first come, first served holds it, and from `least` instances on."""
            if self.cluster.econo.order != "first-come":
                return 0.5
            return 0.95 if self.cluster.num_instances >= least else 0.8

    monkeypatch.setattr(instances, "Trial", Told)
    monkeypatch.setattr(instances, "MOST_INSTANCES", 6)
    [found] = instances.count(ECONO, 0.9, "file", 1.0, lengths)
    assert found["instances"] == (least if least <= 6 else None)
    assert found["attainment"] == (0.95 if least <= 6 else 0.8)
    assert found["tuned"]["order"] == "first-come"


def test_there_is_a_record_for_each_system_target_and_prediction(
    lengths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inline(jobs: list[Job], *_: object) -> object:
        return [(job, job.run()) for job in jobs]

    monkeypatch.setattr(instances, "run_jobs", inline)
    monkeypatch.setattr(instances, "SYSTEMS", (ECONO,))
    monkeypatch.setattr(instances, "TARGETS", (0.9,))
    said: list[str] = []
    folders = Folders(Path(lengths), tmp_path, tmp_path / "cache")
    records = instances.run_instances(folders, 1, said.append)
    assert sorted((r["system"], r["prediction"]) for r in records) == [
        (name, told) for name in ("chunked-jsq", "fudg") for told in ("file", "mean", "noise")
    ]
    assert len(said) == len(records)
    write(tmp_path / "results", "instances", records, seeds=(1,), requests=60)
    assert load_results(tmp_path / "results").records("instances", InstancesRecord)


def test_noise_is_of_the_true_lengths_and_the_same_at_every_rate(lengths: str) -> None:
    cluster = cluster_of(ECONO, {})
    noisy, plain = Trial(cluster, "noise", lengths), Trial(cluster, "file", lengths)
    slow, fast = noisy.arrivals(10.0, 1), noisy.arrivals(20.0, 1)
    told = [each.predicted_tokens for each in slow]
    assert told == [each.predicted_tokens for each in fast[: len(slow)]]
    ratios = sorted((m or 0) / each.output_tokens for m, each in zip(told, slow, strict=True))
    assert ratios[0] < 0.5
    assert ratios[-1] > 2.0
    assert 0.8 < ratios[len(ratios) // 2] < 1.25
    for each in plain.arrivals(10.0, 1):
        assert 0 <= (each.predicted_tokens or 0) - each.output_tokens < 9
