"""Experiments: jobs are cached by what they depend on, and baselines are tuned."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from rondo.types import Slo
from rondo_bench.experiments import grid
from rondo_bench.experiments import lengths as classes
from rondo_bench.experiments.cases import PROFILES, Case, Dataset, Folders
from rondo_bench.experiments.results import write
from rondo_bench.experiments.search import Job, Record, run_jobs
from rondo_bench.experiments.sweeps import ABLATIONS, SLOS, SWEEPS, SYSTEMS, jobs_of
from rondo_bench.report.data import load_results
from rondo_bench.sim.trial import attainment_of


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    rows = "\n".join(f"{20 + 7 * i % 200},{5 + 3 * i % 40}" for i in range(50))
    (tmp_path / "tiny.csv").write_text(f"num_prefill_tokens,num_decode_tokens\n{rows}\n")
    return tmp_path


CASE = Case("codellama-34b", "l20", Dataset("tiny", "tiny.csv", Slo(ttft_s=1.0, tpot_s=0.1), 60))


def count(folder: str, number: int) -> list[Record]:
    """Leaves a mark each time that it runs."""
    path = Path(folder) / f"ran-{number}"
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    return [{"number": number}]


def test_a_job_runs_once_and_again_only_when_its_arguments_change(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def numbers(*wanted: int) -> list[int]:
        jobs = [Job(count, (str(tmp_path), number)) for number in wanted]
        return sorted(found[0]["number"] for _, found in run_jobs(jobs, cache, 2))

    assert numbers(1, 2) == [1, 2]
    assert numbers(2, 3) == [2, 3]
    assert {p.name: p.read_text() for p in tmp_path.glob("ran-*")} == {
        "ran-1": "x",
        "ran-2": "x",
        "ran-3": "x",
    }


def test_a_family_is_tuned_and_measured_at_each_target(
    lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = ("chunked-jsq", "chunk_tokens", (32, 512), ("chunked-jsq", "chunked-rr"))
    monkeypatch.setitem(grid.FAMILIES, "chunked", family)
    records = grid.measure_family(CASE, "chunked", (0.99, 0.9, 0.5), str(lengths))
    assert [(r["system"], r["target"]) for r in records] == [
        ("chunked-jsq", 0.99),
        ("chunked-jsq", 0.9),
        ("chunked-jsq", 0.5),
        ("chunked-rr", 0.99),
    ]
    assert {r["tuned"]["chunk_tokens"] for r in records} == {512}
    assert 0 < records[0]["rate"] <= records[1]["rate"] <= records[2]["rate"]
    write(tmp_path / "results", "grid", records, seeds=(1, 2, 3), requests=60)
    assert json.loads((tmp_path / "results" / "grid.json").read_text())["records"]
    load_results(tmp_path / "results")


def test_every_case_has_a_profile_and_every_sweep_has_jobs() -> None:
    for model, gpu in PROFILES:
        cluster = Case(model, gpu, CASE.dataset).cluster("padg")
        assert cluster.latency().cpu_ms == 4.0
    for jobs in (make("lengths") for make in SWEEPS.values()):
        assert len(jobs) >= 8
    assert len(ABLATIONS) >= 9


def test_a_sweep_of_some_systems_leaves_the_others_out() -> None:
    folders = Folders(lengths=Path("lengths"), results=Path("results"))
    assert len(jobs_of("slo", SYSTEMS, folders)) == len(SYSTEMS) * len(SLOS)
    some = jobs_of("slo", ["padg"], folders)
    assert [job.arguments[:3] for job in some] == [("padg", *slo) for slo in SLOS]


def test_no_system_passes_the_ceiling_of_a_long_run(lengths: Path) -> None:
    long_run = Case("codellama-34b", "l20", Dataset("tiny", "tiny.csv", CASE.dataset.slo, 4000))
    [bound] = grid.measure_ceiling(long_run, str(lengths))
    for family in ("padg", "chunked"):
        system = grid.FAMILIES[family][0]
        cluster = grid.configured(long_run, system, "chunk_tokens", 256)
        offered = partial(long_run.dataset.offered, str(lengths))
        assert attainment_of(cluster, offered(0.7 * bound["rate"], 1)) > 0.99
        assert attainment_of(cluster, offered(1.5 * bound["rate"], 1)) < 0.9


def test_classes_are_measured_beside_instances_that_are_alike(
    lengths: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classes, "RUN_SEEDS", (1,))
    monkeypatch.setattr(classes, "FINE", 1.2)
    records = classes.ceilings(CASE, str(lengths))
    for num in classes.CLASSES:
        records += classes.measure(CASE, "exact", num, str(lengths))
    bounds, runs = records[:4], records[4:]
    assert [record["classes"] for record in bounds] == [0, *classes.CEILING_CLASSES]
    assert all(bound["rate"] > 0 for bound in bounds)
    assert [(run["classes"], run["target"]) for run in runs] == [
        (num, target) for num in classes.CLASSES for target in classes.TARGETS
    ]
    assert 0 < runs[0]["rate"] <= runs[1]["rate"]
    write(tmp_path / "results", "lengths", records, seeds=(1,), requests=60)
    load_results(tmp_path / "results")


def test_near_predictions_have_the_errors_of_answers_of_about_the_same_length(
    lengths: Path,
) -> None:
    def factor(tokens: int) -> int:
        return 2 if tokens < 20 else 3

    rows = "\n".join(f"10,{n},{factor(n) * n}" for n in range(1, 50) for _ in range(200))
    header = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens"
    (lengths / classes.PREDICTED_FILE).write_text(f"{header}\n{rows}\n")
    slow, fast = (classes.offered(CASE, "near", rate, 1, str(lengths)) for rate in (1.0, 2.0))
    assert [a.predicted_tokens for a in slow] == [a.predicted_tokens for a in fast]
    for arrival in slow:
        assert arrival.predicted_tokens in (2 * arrival.output_tokens, 3 * arrival.output_tokens)
        if abs(arrival.output_tokens - 20) > 1:
            assert arrival.predicted_tokens == factor(arrival.output_tokens) * arrival.output_tokens
    assert classes.clustered(CASE, "near", 4).prediction == "file"
