"""A live cluster and the simulator agree on the same workload; a small version of the benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo.types import Slo
from rondo_bench.parity.cases import Case, Setup, fitting
from rondo_bench.parity.client import AnswerWrong, offer
from rondo_bench.parity.compare import MISSED, error_of, figures, served
from rondo_bench.parity.live import run_live
from rondo_bench.parity.simulated import run_simulated
from rondo_bench.sim.records import Arrival

PROFILE = "codellama-34b-l20-tp4"
SLO = Slo(ttft_s=5.0, tpot_s=0.1)
#: Generous: other programs of a busy machine delay single messages by many milliseconds.
TOLERANCE = 0.35


def setup(policy: str = "padg", instances: int = 2) -> Setup:
    return Setup(
        policy=policy,
        profile_name=PROFILE,
        profile=load_profile(PROFILE),
        num_instances=instances,
        max_model_len=4096,
    )


def workload() -> Sequence[Arrival]:
    """Steps of 0.2 to 0.5 s of prefill and of 30 ms of decode; some requests have to wait."""
    return [
        Arrival(
            request_id=f"r{i}",
            at_s=0.25 * i,
            prompt_tokens=400 + 300 * (i % 3),
            output_tokens=20 + 5 * (i % 4),
        )
        for i in range(16)
    ]


async def test_live_and_simulated_latencies_agree() -> None:
    arrivals = workload()
    async with asyncio.timeout(60):
        live = await run_live(setup(), arrivals, SLO, seed=1)
    simulated = run_simulated(setup(), arrivals, SLO, 1, hop_s=live.hop_s, http_s=live.http_s)
    assert all(one.ttft_s is not None for one in [*live.requests, *simulated])
    assert 0 < live.hop_s < 1
    assert 0 < live.http_s < 1
    of_sim = figures(simulated, SLO)
    for metric, of_live in figures(live.requests, SLO).items():
        error = error_of(metric, of_live, of_sim[metric])
        assert abs(error) < TOLERANCE, f"{metric}: {of_live} live, {of_sim[metric]} simulated"


async def test_an_unreachable_cluster_is_an_error_of_ours() -> None:
    with pytest.raises(AnswerWrong, match="no answer"):
        await offer("http://127.0.0.1:9", "nobody", workload()[:2], SLO, seed=1)


def test_the_simulated_side_depends_on_hops_and_policy() -> None:
    near, far = (
        run_simulated(setup(), workload(), SLO, 1, hop_s=hop_s, http_s=0.0) for hop_s in (0.0, 0.05)
    )
    first_near, first_far = near[0].ttft_s, far[0].ttft_s
    assert first_near is not None
    assert first_far is not None
    # submit, answer, prompt, token: four messages are on the way to the first token
    assert first_far - first_near == pytest.approx(0.2)
    assert near != run_simulated(setup("nodg-rr"), workload(), SLO, 1, hop_s=0.0, http_s=0.0)
    later = run_simulated(setup(), workload(), SLO, 1, hop_s=0.0, http_s=0.5)[0]
    assert later.ttft_s == pytest.approx(first_near + 0.5)
    assert later.tpot_s == pytest.approx(near[0].tpot_s)


def test_figures_count_what_was_missed() -> None:
    requests = [served(1.0, 1.2, 2.1, 11), served(0.0, 9.0, 9.45, 6), served(0.0, 1.0, 1.0, 1)]
    found = figures([*requests, MISSED], SLO)
    assert found["ttft_p50_s"] == pytest.approx(1.0)
    assert found["tpot_p50_s"] == pytest.approx(0.09)
    assert found["attainment"] == pytest.approx(2 / 4)
    assert error_of("attainment", 0.9, 0.95) == pytest.approx(-0.05)
    assert error_of("ttft_p50_s", 1.1, 1.0) == pytest.approx(0.1)


def test_requests_are_cut_to_the_models_length(tmp_path: Path) -> None:
    long = Arrival(request_id="r0", at_s=0.0, prompt_tokens=9000, output_tokens=9000)
    cut = fitting(long, 4096)
    assert (cut.prompt_tokens, cut.output_tokens) == (2048, 2048)
    lengths = tmp_path / "lengths.csv"
    rows = ["num_prefill_tokens,num_decode_tokens", "5000,100"]
    lengths.write_text("\n".join(rows))
    case = Case(name="x", lengths=lengths.name, rate=10.0, duration_s=2.0, slo=SLO)
    arrivals = case.arrivals(tmp_path, 4096, seed=3)
    assert len(arrivals) == 20
    assert {(a.prompt_tokens, a.output_tokens) for a in arrivals} == {(3996, 100)}
    with pytest.raises(ConfigError, match="lengths-dir"):
        Case(name="x", lengths="none.csv", rate=1.0, duration_s=1.0, slo=SLO).arrivals(
            tmp_path, 4096, seed=3
        )
