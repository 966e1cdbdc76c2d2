"""What a scheduler believes of an instance, where reports say more than grants."""

from __future__ import annotations

from rondo.perf.profile import load_profile
from rondo.policy.events import InstanceInfo
from rondo.policy.view import InstanceView
from rondo.types import (
    Batching,
    FoundPrefix,
    KvOccupancy,
    Phase,
    Progress,
    RequestInfo,
    Slo,
    StepStat,
)

PROFILE = load_profile("codellama-34b-l20-tp4")


def view() -> InstanceView:
    info = InstanceInfo(
        instance_id="i",
        latency=PROFILE,
        block_size=16,
        num_blocks=1000,
        max_model_len=4096,
        max_running=64,
        max_prefill_tokens=4096,
    )
    return InstanceView(info, rank=0)


def request(request_id: str, prompt_tokens: int) -> RequestInfo:
    return RequestInfo(
        request_id=request_id,
        prompt_tokens=prompt_tokens,
        max_tokens=10,
        predicted_tokens=10,
        slo=Slo(ttft_s=5.0, tpot_s=0.1),
        arrival_s=0.0,
    )


def report(
    *found: FoundPrefix, prefilled: tuple[str, ...] = (), steps: tuple[StepStat, ...] = ()
) -> Progress:
    kv = KvOccupancy(total_blocks=1000, used_blocks=0, free_blocks=1000, reserved_blocks=0)
    return Progress(
        phase=Phase.PREFILL,
        turn=1,
        decode_steps=0,
        num_running=0,
        num_waiting=0,
        kv=kv,
        found=found,
        prefilled=prefilled,
        steps=steps,
    )


def test_a_prefix_that_is_there_makes_the_forecast_shorter() -> None:
    seen = view()
    seen.grant([request("a", 1000), request("b", 1000)], 0.0)
    before_s = seen.forecast(Batching()).cost_s()
    seen.take(report(FoundPrefix("b", 960)), 0.1)
    assert seen.outstanding_tokens == 1040
    after_s = seen.forecast(Batching()).cost_s()
    # One pack of 1,040 tokens, of which 40 look back at 960.
    assert after_s == PROFILE.step_s(1040, 1000**2 + 40 * (40 + 2 * 960), 0, 0) < before_s


def test_what_was_found_is_not_taken_for_progress_of_others() -> None:
    seen = view()
    seen.grant([request("a", 1000), request("b", 1000)], 0.0)
    seen.take(report(FoundPrefix("a", 960)), 0.1)
    step = StepStat(Phase.PREFILL, 0.1, 2, 340, 340, 0, 0, 0)
    seen.take(report(prefilled=("a",), steps=(step,)), 0.2)
    assert seen.outstanding_tokens == 700, "40 of a and 300 of b are computed"


def test_a_prefix_of_a_request_that_is_not_here_is_ignored() -> None:
    seen = view()
    seen.grant([request("a", 1000)], 0.0)
    seen.take(report(FoundPrefix("x", 960), FoundPrefix("a", 1000)), 0.1)
    assert seen.outstanding_tokens == 1000
