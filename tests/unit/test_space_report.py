"""What an instance policy has promised of the KV pool, in reports: of old and of new programs."""

from __future__ import annotations

import msgspec
import pytest

from rondo.policy.econoserve import make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.progress import progress_of
from rondo.types import KvSpace, Progress, Slo
from rondo.wire.codec import SCHEMA_VERSION, decode, encode
from rondo.wire.messages import StepReport


def progress(policy: str) -> Progress:
    """Of an instance with one request that decodes: 33 tokens now, 80 expected at its end."""
    scheduler = InstanceScheduler(
        KvLedger(100, 16),
        max_running=8,
        max_prefill_tokens=512,
        policy=make_instance_policy(policy),
    )
    scheduler.add(Job("r", 32, 60, 48, Slo(ttft_s=1.0, tpot_s=1.0), 0.0))
    scheduler.grant(1, ["r"], 10.0, 0.0)
    for _ in range(2):
        plan = scheduler.plan(0.0)
        assert plan is not None
        scheduler.advance(plan)
    return progress_of(scheduler, 0.0)


def report(found: Progress) -> StepReport:
    return StepReport(
        instance_id="w", incarnation="i", epoch=1, macro_id="m", seq=1, progress=found
    )


@pytest.mark.parametrize("policy", ["exact", "max-length", "econoserve"])
def test_what_is_set_aside_is_reported(policy: str) -> None:
    found = progress(policy)
    assert found.space is not None
    assert found.space.owned_blocks >= 5 > found.kv.used_blocks == 3
    assert decode(encode(report(found))) == report(found)


@pytest.mark.parametrize("policy", ["block-growth", "shortest-first"])
def test_where_nothing_is_promised_nothing_is_said(policy: str) -> None:
    assert progress(policy).space is None


def test_an_older_program_sends_none_and_reads_the_rest() -> None:
    sent = report(progress("exact"))
    fields = msgspec.msgpack.decode(encode(sent)[1:])
    assert fields["progress"].pop("space")["owned_blocks"] > 0
    older = decode(bytes((SCHEMA_VERSION,)) + msgspec.msgpack.encode(fields))
    assert older == report(msgspec.structs.replace(sent.progress, space=None))


def test_fields_without_a_value_of_their_own_are_not_sent() -> None:
    assert msgspec.to_builtins(KvSpace(owned_blocks=4, num_paused=1)) == {
        "owned_blocks": 4,
        "num_paused": 1,
    }
