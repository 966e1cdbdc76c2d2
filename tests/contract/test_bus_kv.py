"""What every bus must do: key-value buckets. The in-memory bus and NATS pass the same tests."""

from __future__ import annotations

import asyncio

import pytest

from rondo.bus.protocol import KeyUpdate
from rondo.errors import BusUnavailable, RevisionConflict
from rondo.wire.messages import MacroRecord
from tests.support.buses import BusHarness
from tests.support.collect import Collector, eventually

BUCKET = "rondo_macros"


def record(owner_id: str, beat: int = 0) -> MacroRecord:
    return MacroRecord(
        macro_id="m",
        model="m",
        owner_id=owner_id,
        epoch=1,
        beat=beat,
        max_model_len=128,
        instance_ids=("w-1",),
    )


def owners(updates: list[KeyUpdate]) -> list[tuple[str, str | None]]:
    return [
        (u.key, u.value.owner_id if isinstance(u.value, MacroRecord) else None) for u in updates
    ]


async def test_values_and_revisions(harness: BusHarness) -> None:
    bucket = await (await harness.bus("a")).key_value(BUCKET)
    assert await bucket.get("m") is None
    first = await bucket.put("m", record("x"))
    assert await bucket.get("m") == KeyUpdate("m", record("x"), first)
    second = await bucket.put("m", record("y"))
    assert second > first
    await bucket.put("n", record("z"))
    snapshot = await bucket.snapshot()
    assert snapshot["m"] == KeyUpdate("m", record("y"), second)
    assert sorted(snapshot) == ["m", "n"]
    await bucket.delete("m")
    await bucket.delete("m")
    await bucket.delete("never-there")
    assert await bucket.get("m") is None
    assert sorted(await bucket.snapshot()) == ["n"]


async def test_compare_and_set(harness: BusHarness) -> None:
    one = await (await harness.bus("a")).key_value(BUCKET)
    two = await (await harness.bus("b")).key_value(BUCKET)
    created = await one.create("m", record("a"))
    with pytest.raises(RevisionConflict):
        await two.create("m", record("b"))
    updated = await two.update("m", record("b"), created)
    with pytest.raises(RevisionConflict) as lost:
        await one.update("m", record("a", 1), created)
    assert (lost.value.bucket, lost.value.key, lost.value.revision) == (BUCKET, "m", created)
    assert await one.get("m") == KeyUpdate("m", record("b"), updated)
    await two.delete("m")
    with pytest.raises(RevisionConflict):
        await two.update("m", record("b"), updated)
    again = await one.create("m", record("a", 2))
    assert again > updated
    await one.update("m", record("a", 3), again)


async def test_only_one_of_many_wins(harness: BusHarness) -> None:
    buckets = [await (await harness.bus(str(i))).key_value(BUCKET) for i in range(5)]
    results = await asyncio.gather(
        *(bucket.create("m", record(str(i))) for i, bucket in enumerate(buckets)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, RevisionConflict) for result in results) == 4


async def test_watch_gives_current_values_then_changes(harness: BusHarness) -> None:
    bucket = await (await harness.bus("a")).key_value(BUCKET)
    await bucket.put("gone", record("x"))
    await bucket.delete("gone")
    await bucket.put("m", record("x"))
    await bucket.put("m", record("y"))
    got: Collector[KeyUpdate] = Collector()
    watch = await bucket.watch(got)
    assert owners(got.items) == [("m", "y")]
    other = await (await harness.bus("b")).key_value(BUCKET)
    revision = await other.put("n", record("z"))
    await other.delete("m")
    # A watch may leave out a value that the next one has replaced already.
    await got.wait(3)
    await other.put("m", record("again"))
    updates = await got.wait(4)
    assert owners(updates[1:]) == [("n", "z"), ("m", None), ("m", "again")]
    assert updates[1].revision == revision
    await watch.close()
    await watch.close()
    later: Collector[KeyUpdate] = Collector()
    await bucket.watch(later)
    await other.put("n", record("later"))
    await later.until(lambda items: owners(items)[-1] == ("n", "later"))
    assert len(got.items) == 4


async def test_watch_of_an_empty_bucket_returns(harness: BusHarness) -> None:
    bucket = await (await harness.bus("a")).key_value(BUCKET)
    got: Collector[KeyUpdate] = Collector()
    await bucket.watch(got)
    assert got.items == []
    await bucket.put("m", record("x"))
    assert owners(await got.wait(1)) == [("m", "x")]


async def test_undecodable_value_counts_as_none(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    await bucket.put("m", record("x"))
    got: Collector[KeyUpdate] = Collector()
    await bucket.watch(got)
    await harness.inject_value(BUCKET, "m", b"\x09garbage")
    await harness.inject_value(BUCKET, "other", b"garbage")
    assert owners(await got.wait(2)) == [("m", "x"), ("m", None)]
    assert await bucket.get("m") is None
    assert await bucket.snapshot() == {}
    assert bus.stats.undecodable >= 4
    assert bus.stats.by_subject[f"$KV.{BUCKET}.m"] >= 3
    await bucket.put("m", record("y"))
    assert owners(await got.wait(3))[-1] == ("m", "y")


async def test_failing_watch_handler_does_not_stop_the_watch(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    got: Collector[KeyUpdate] = Collector()

    def handler(update: KeyUpdate) -> None:
        got(update)
        raise ValueError("a bug")

    await bucket.watch(handler)
    await bucket.put("m", record("x"))
    await got.wait(1)
    await bucket.put("m", record("y"))
    await got.wait(2)
    await eventually(lambda: bus.stats.handler_errors == 2, "both errors are counted")


async def test_all_fail_typed_while_the_server_is_lost(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    with pytest.raises(BusUnavailable):
        await bucket.get("m")
    with pytest.raises(BusUnavailable):
        await bucket.put("m", record("x"))
    with pytest.raises(BusUnavailable):
        await bucket.create("m", record("x"))
    with pytest.raises(BusUnavailable):
        await bucket.update("m", record("x"), 1)
    with pytest.raises(BusUnavailable):
        await bucket.delete("m")
    with pytest.raises(BusUnavailable):
        await bucket.snapshot()
    with pytest.raises(BusUnavailable):
        await bucket.watch(lambda _: None)


async def test_watch_survives_a_restart(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    await bucket.put("m", record("x"))
    got: Collector[KeyUpdate] = Collector()
    await bucket.watch(got)
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    await harness.restore()
    updates = await got.wait(2)
    assert updates[1] == updates[0], "the current value comes again"
    await bucket.put("m", record("y"))
    assert owners(await got.wait(3))[2] == ("m", "y")


async def test_watch_survives_a_lost_store(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    await bucket.put("m", record("x"))
    await bucket.put("n", record("x"))
    got: Collector[KeyUpdate] = Collector()
    watches = [await bucket.watch(got)]
    other: Collector[KeyUpdate] = Collector()
    watches.append(await bucket.watch(other))
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    await harness.restore(lose_store=True)
    assert owners(await got.wait(4))[2:] == [("m", None), ("n", None)]
    await other.wait(4)
    # Writers that come before or after the watch find a bucket again.
    revision = await bucket.create("m", record("new"))
    await bucket.update("m", record("newer"), revision)
    await got.until(lambda items: owners(items)[-1] == ("m", "newer"))


async def test_writes_make_a_lost_bucket_again(harness: BusHarness) -> None:
    bus = await harness.bus("a")
    bucket = await bus.key_value(BUCKET)
    revision = await bucket.put("m", record("x"))
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    await harness.restore(lose_store=True)
    await eventually(lambda: bus.connected, "it is connected again")
    assert await bucket.get("m") is None
    with pytest.raises(RevisionConflict):
        await bucket.update("m", record("y"), revision)
    await bucket.create("m", record("z"))
    assert owners(list((await bucket.snapshot()).values())) == [("m", "z")]
