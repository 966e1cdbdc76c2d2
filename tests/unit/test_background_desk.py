"""Background requests at a macro-instance: behind the others, where memory is free."""

from __future__ import annotations

import msgspec
import pytest

from rondo.perf.profile import load_profile
from rondo.policy import events
from rondo.policy.catalog import PolicySettings, make_policy
from rondo.policy.macro import MacroState
from rondo.types import (
    Finished,
    FinishReason,
    KvOccupancy,
    Phase,
    Progress,
    RequestInfo,
    RequestProgress,
    Slo,
)
from rondo.wire.messages import InstanceRecord
from rondo_coordinator.members import Member

PROFILE = load_profile("codellama-34b-l20-tp4")
SLO = Slo(ttft_s=5.0, tpot_s=0.1)
BLOCKS = 100
POLICIES = ["padg", "padg-paper", "nodg-rr", "chunked-jsq"]


def progress(**changes: object) -> Progress:
    """An idle instance."""
    kv = KvOccupancy(total_blocks=BLOCKS, used_blocks=0, free_blocks=BLOCKS, reserved_blocks=0)
    idle = Progress(phase=Phase.IDLE, turn=0, decode_steps=0, num_running=0, num_waiting=0, kv=kv)
    return msgspec.structs.replace(idle, **changes)


def join(
    policy: MacroState,
    instance_id: str,
    at_s: float = 0.0,
    background_pools: float = events.BACKGROUND_POOLS,
    **changes: object,
) -> None:
    info = events.InstanceInfo(
        instance_id=instance_id,
        latency=PROFILE,
        block_size=16,
        num_blocks=BLOCKS,
        max_model_len=1600,
        max_running=8,
        max_prefill_tokens=512,
        background_pools=background_pools,
    )
    changes.setdefault("members", ())
    joined = events.InstanceJoined(at_s=at_s, instance=info, progress=progress(**changes))
    policy.handle(joined)


def arrive(
    policy: MacroState, name: str, tokens: int = 160, at_s: float = 0.0, background: bool = True
) -> events.Decision:
    info = RequestInfo(
        request_id=name,
        prompt_tokens=tokens,
        max_tokens=160,
        predicted_tokens=160,
        slo=SLO,
        arrival_s=at_s,
        background=background,
    )
    return policy.handle(events.RequestArrived(at_s=at_s, request=info))


def admits(decision: events.Decision) -> dict[str, str]:
    return {e.request_id: e.instance_id for e in decision.effects if isinstance(e, events.Admit)}


def policy_of(name: str) -> MacroState:
    policy = make_policy(name, PolicySettings())
    assert isinstance(policy, MacroState)
    return policy


@pytest.mark.parametrize("name", POLICIES)
def test_spread_by_free_memory_and_a_share_stays_free(name: str) -> None:
    policy = policy_of(name)
    join(policy, "a")
    join(policy, "b")
    # 20 blocks each: four on each instance leave its last fifth free.
    placed = [admits(arrive(policy, f"r{i}")) for i in range(9)]
    homes = [home for one in placed for home in one.values()]
    assert sorted(homes) == ["a"] * 4 + ["b"] * 4
    assert list(policy.background.pending) == ["r8"]
    assert policy.num_pending == 0, "no instance is started for it"
    done = progress(finished=(ended("r0"),))
    report = events.InstanceReported(at_s=1.0, instance_id=placed[0]["r0"], progress=done)
    assert admits(policy.handle(report)) == {"r8": placed[0]["r0"]}
    policy.check_invariants()


def ended(name: str) -> Finished:

    return Finished(name, FinishReason.LENGTH, 160)


@pytest.mark.parametrize("name", POLICIES)
def test_foreground_decides_as_if_there_were_none(name: str) -> None:
    def effects(backlog: int) -> list[events.AnyEffect]:
        policy = policy_of(name)
        join(policy, "a")
        join(policy, "b")
        for i in range(backlog):
            arrive(policy, f"b{i}")
        seen: list[events.AnyEffect] = []
        for i in range(6):
            seen += arrive(policy, f"r{i}", 300, 0.1 * i, background=False).effects
        kv = KvOccupancy(
            total_blocks=BLOCKS,
            used_blocks=60 + (20 if backlog else 0),
            free_blocks=40,
            reserved_blocks=0,
            background_blocks=20 if backlog else 0,
        )
        done = progress(phase=Phase.DECODE, prefilled=("r0",), kv=kv)
        report = events.InstanceReported(at_s=1.0, instance_id="a", progress=done)
        seen += policy.handle(report).effects
        seen += arrive(policy, "r9", 300, 1.1, background=False).effects
        return [e for e in seen if not getattr(e, "request_id", "").startswith("b")]

    assert effects(12) == effects(0)


@pytest.mark.parametrize("name", POLICIES)
def test_a_new_owner_counts_what_is_there(name: str) -> None:
    member = RequestProgress(
        request_id="old",
        prompt_tokens=640,
        max_tokens=640,
        predicted_tokens=640,
        tokens_out=3,
        slo=SLO,
        age_s=1.0,
        decode_age_s=None,
        background=True,
    )
    policy = policy_of(name)
    join(policy, "a", members=(member,))
    assert admits(arrive(policy, "r0")) == {}, "80 of 100 blocks are spoken for"
    view = policy.views["a"]
    assert [*view.running, *view.fresh, *view.carry] == []
    silent = events.InstanceReported(at_s=20.0, instance_id="a", progress=progress(members=()))
    assert admits(policy.handle(silent)) == {"r0": "a"}, "the instance has lost it"


def test_cancelled_refused_and_gone() -> None:
    policy = policy_of("padg")
    join(policy, "a")
    for i in range(5):
        arrive(policy, f"r{i}")
    cancelled = policy.handle(events.RequestCancelled(at_s=1.0, request_id="r0"))
    assert admits(cancelled) == {"r4": "a"}
    assert any(isinstance(e, events.CancelOn) for e in cancelled.effects)
    arrive(policy, "r5", at_s=2.0)
    late = policy.handle(events.Tick(at_s=1000.0))
    assert [e.reason for e in late.effects if isinstance(e, events.Reject)] == ["overloaded"]
    assert policy.load.num_refused == 0, "it is no load"
    policy.handle(events.InstanceLeft(at_s=1001.0, instance_id="a"))
    join(policy, "a", 1002.0)
    assert admits(arrive(policy, "r6", at_s=1003.0)) == {"r6": "a"}


@pytest.mark.parametrize(("pools", "num"), [(0.8, 4), (3.0, 15)])
def test_an_instance_may_take_more_than_fits_and_queue_it(pools: float, num: int) -> None:
    policy = policy_of("padg")
    join(policy, "a", background_pools=pools)
    placed = [name for i in range(30) for name in admits(arrive(policy, f"r{i}"))]
    assert len(placed) == num, "each is to have 20 of 100 blocks at its end"


@pytest.mark.parametrize(("told", "taken"), [(0.0, events.BACKGROUND_POOLS), (3.0, 3.0)])
def test_how_much_an_instance_takes_is_its_own_word(told: float, taken: float) -> None:
    record = InstanceRecord(
        instance_id="a",
        incarnation="1",
        model="m",
        engine="pipeline",
        max_model_len=1600,
        block_size=16,
        num_blocks=BLOCKS,
        max_running=8,
        max_prefill_tokens=512,
        profile=PROFILE,
        background_pools=told,
    )
    assert Member(record, heard_s=0.0).info.background_pools == taken
