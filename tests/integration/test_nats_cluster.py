"""Three nats-servers as one bus: any of them may die, and nobody is to notice much."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.nats_kv import KeyValueOptions
from rondo.bus.protocol import Incoming, KeyUpdate
from rondo.wire.messages import MacroRecord
from tests.support.buses import SUBJECT, ClusterHarness, frame, seqs
from tests.support.collect import Collector, eventually
from tests.support.generations import Gateway, Result, complete, servable, start_gateway, text_of
from tests.support.nats import NatsCluster, ServerUnderTest
from tests.support.services import ORDINARY, Stage, expected_tokens, stage_on, steps_of

BUCKET = subjects.MACROS_BUCKET


def record(beat: int) -> MacroRecord:
    return MacroRecord(
        macro_id="m", model="m", owner_id="o", epoch=1, beat=beat, max_model_len=1, instance_ids=()
    )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    made = NatsCluster(tmp_path)
    await made.start()
    yield made
    await made.stop()


def used_by(bus: NatsBus, cluster: NatsCluster) -> ServerUnderTest:
    return next(node for node in cluster.nodes if node.url == bus.address)


async def on_each_node(cluster: NatsCluster) -> dict[str, NatsBus]:
    """A connection to each node, by the node's name."""
    buses: dict[str, NatsBus] = {}
    for number in range(100):
        bus = NatsBus(cluster.url, name=f"client{number}")
        await bus.connect()
        name = used_by(bus, cluster).name
        if name in buses:
            await bus.close()
        else:
            buses[name] = bus
        if len(buses) == len(cluster.nodes):
            return buses
    raise AssertionError("clients do not spread over the nodes")


async def test_buckets_are_on_three_nodes(cluster: NatsCluster) -> None:
    old = NatsBus(cluster.url, name="old", kv=KeyValueOptions(replicas=1))
    await old.connect()
    store = await old.key_value("old")
    assert await cluster.replicas_of("old") == 1
    await store.put("m", record(1))
    bus = NatsBus(cluster.url, name="new")
    await bus.connect()
    await bus.key_value("new")
    assert await cluster.replicas_of("new") == 3, "without anybody having to know"
    # A bucket from the time of a single server gets its replicas, too.
    found = await (await bus.key_value("old")).get("m")
    assert found is not None
    assert found.value == record(1)
    assert await cluster.replicas_of("old") == 3
    await old.close()
    await bus.close()


async def test_a_client_moves_to_another_node(cluster: NatsCluster) -> None:
    buses = await on_each_node(cluster)
    writer = await next(iter(buses.values())).key_value(BUCKET)
    leader = await cluster.leader_of(BUCKET)
    node, other = (node for node in cluster.nodes if node is not leader)
    victim, witness = buses[node.name], buses[other.name]
    updates: Collector[KeyUpdate] = Collector()
    await (await victim.key_value(BUCKET)).watch(updates)
    got: Collector[Incoming] = Collector()
    await victim.subscribe(SUBJECT, got)
    await writer.put("m", record(1))
    await updates.wait(1)
    for round_number in range(1, 3):  # the node comes back, and then the one it uses now goes
        lost = used_by(victim, cluster)
        await lost.kill()
        await eventually(lambda n=round_number: victim.stats.reconnects >= n, "it has moved")  # type: ignore[misc]
        assert used_by(victim, cluster) is not lost
        await eventually(lambda: witness.connected, "the other one, too, if need be")
        await witness.publish(SUBJECT, frame(round_number))
        await got.until(lambda items, n=round_number: n in seqs(items))  # type: ignore[misc]
        await lost.start()
    for bus in buses.values():
        await bus.close()


async def test_one_address_with_a_password_is_enough(tmp_path: Path) -> None:
    cluster = NatsCluster(tmp_path, config="authorization { user: rondo, password: secret }")
    await cluster.start()
    first = cluster.nodes[0]
    bus = NatsBus(first.url.replace("//", "//rondo:secret@"), name="test")
    await bus.connect()
    got: Collector[Incoming] = Collector()
    await bus.subscribe(SUBJECT, got)
    await first.kill()
    await eventually(lambda: bus.stats.reconnects == 1, "the server had told of the others")
    assert bus.address in [node.url for node in cluster.nodes[1:]]
    await bus.publish(SUBJECT, frame(0))
    assert seqs(await got.wait(1)) == [0]
    await bus.close()
    await cluster.stop()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Stage, Gateway, NatsCluster]]:
    """A coordinator, two workers and a gateway on three nodes."""
    async with stage_on("cluster", tmp_path) as stage:
        assert isinstance(stage.harness, ClusterHarness)
        await stage.coordinator(lease_s=3.0)
        for index in range(2):
            await stage.worker(f"w{index}", profile=steps_of(3.0, 4.0))
        gateway = await start_gateway(await stage.harness.bus("g0"))
        await servable(gateway, 2)
        yield stage, gateway, stage.harness.cluster


class Load:
    """Answers side by side, one after another, each checked against what it must be."""

    def __init__(self, gateway: Gateway, num_clients: int) -> None:
        self.num_done = 0
        self._gateway = gateway
        self._going = True
        self._clients = [asyncio.create_task(self._client(n)) for n in range(num_clients)]

    async def stop(self) -> None:
        """Lets what was begun end; raises what went wrong."""
        self._going = False
        async with asyncio.timeout(60):
            await asyncio.gather(*self._clients)

    async def more(self, count: int) -> None:
        """Waits until so many more answers are complete."""
        goal = self.num_done + count
        async with asyncio.timeout(60):
            while self.num_done < goal:
                failed = [c for c in self._clients if c.done()]
                assert not failed, failed[0]
                await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        for question in range(10_000):
            if not self._going:
                return
            prompt = chance.choices(ORDINARY, k=chance.choice((1, 16, 300)))
            length = chance.randint(1, 200)
            made = self._gateway.generation(f"q{number}-{question}", prompt, length)
            result: Result = await complete(made)
            assert result.error is None, f"{made}: {result.error}"
            assert result.text == text_of(expected_tokens(prompt, length, ignore_eos=True))
            self.num_done += 1


async def test_answers_go_on_whichever_node_dies(
    served: tuple[Stage, Gateway, NatsCluster],
) -> None:
    stage, gateway, cluster = served
    [coordinator] = stage.coordinators
    bus = gateway.links.bus
    assert isinstance(bus, NatsBus)
    load = Load(gateway, 8)
    await load.more(20)
    leader = await cluster.leader_of(BUCKET)
    lost = next(node for node in cluster.nodes if node is not leader)
    await lost.kill()
    await load.more(40)
    assert len(coordinator.policies) == 1, "the lease stays"
    await lost.start()
    await load.more(20)
    leader = await cluster.leader_of(BUCKET)
    await leader.kill()  # for some seconds nobody can renew a lease
    await load.more(40)
    await stage.worker("w2", profile=steps_of(3.0, 4.0))
    # All that watch have heard of it; two elections may come one after the other.
    await servable(gateway, 3, timeout_s=45.0)
    await leader.start()
    await load.more(20)
    await load.stop()
    await eventually(lambda: not coordinator.policies[-1].placed, "nothing is left behind")
    assert not any(worker.deaths for worker in stage.workers)
