"""`rondo status` and `rondo events`: what the cluster says of itself over the bus."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from rondo.bus.tls import TlsFiles
from rondo.errors import BusUnavailable
from rondo.types import KvSpace
from rondo.wire.messages import Event, InstanceStatus, StatusReply, StatusRequest

CONNECT_TIMEOUT_S = 5.0
ANSWER_WAIT_S = 0.5


async def connect(nats_url: str) -> NatsBus:
    """A connection, in bounded time.

    Raises:
        BusUnavailable: none within CONNECT_TIMEOUT_S.
        ConfigError: a file that NATS_CA and the like name cannot be used.
    """
    bus = NatsBus(nats_url, name="rondo-cli", tls=TlsFiles.from_env(os.environ))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await bus.connect()
    except TimeoutError:
        await bus.close()
        raise BusUnavailable(bus.url, f"no connection in {CONNECT_TIMEOUT_S:g} s") from None
    return bus


async def cluster_status(nats_url: str) -> list[StatusReply]:
    """The state of every macro-instance, from its owner."""
    bus = await connect(nats_url)
    try:
        replies = await bus.request_many(subjects.STATUS, StatusRequest(), ANSWER_WAIT_S)
    finally:
        await bus.close()
    found = [reply for reply in replies if isinstance(reply, StatusReply)]
    return sorted(found, key=lambda reply: reply.macro_id)


def as_json(replies: list[StatusReply]) -> str:
    """For `--json`: {"macros": [...]}, fields as in StatusReply and InstanceStatus."""
    return msgspec.json.encode({"macros": replies}).decode()


def as_table(replies: list[StatusReply]) -> str:
    """For people."""
    if not replies:
        return "no coordinator answered: no model is being served"
    lines = []
    for reply in replies:
        promises = any(instance.space for instance in reply.instances)
        lines.append(
            f"{reply.model}: {len(reply.instances)} instances, {reply.num_pending} pending, "
            f"owner {reply.owner_id}, epoch {reply.epoch}"
        )
        lines.append(
            f"  {'instance':24} {'engine':9} {'phase':8} {'turn':>5} {'running':>8} "
            f"{'waiting':>8} {'KV used':>16} {'weights':>9} {'KV pool':>9} {'peak':>9} {'heard':>9}"
            f"{'  KV promised' if promises else ''}"
        )
        lines.extend(_row(instance) for instance in reply.instances)
    return "\n".join(lines)


async def follow_events(nats_url: str, stop: asyncio.Event) -> None:
    """Prints decisions and life-cycle events until `stop` is set."""
    bus = await connect(nats_url)
    try:
        await bus.subscribe(subjects.all_events(), _print_event)
        await bus.flush()
        print(f"following the events on {bus.url}; Ctrl-C ends", file=sys.stderr, flush=True)
        await stop.wait()
    finally:
        await bus.close()


def _row(instance: InstanceStatus) -> str:
    kv = instance.kv
    used = "-"
    if kv:
        share = 100 * kv.used_blocks / kv.total_blocks
        used = f"{kv.used_blocks}/{kv.total_blocks} {share:4.0f}%"
    return (
        f"  {instance.instance_id:24} {instance.engine:9} {instance.phase.value:8} "
        f"{instance.turn:5} {instance.num_running:8} {instance.num_waiting:8} {used:>16} "
        f"{_size(instance.weight_bytes)} {_size(instance.kv_bytes)} {_size(instance.peak_bytes)} "
        f"{instance.report_age_s:7.2f} s{_promised(instance.space)}"
    )


def _promised(space: KvSpace | None) -> str:
    """What the instance policy has given away ahead of its use; nothing where it has not."""
    if space is None:
        return ""
    paused = f", {space.num_paused} paused" if space.num_paused else ""
    return (
        f"  {space.owned_blocks} owned, {space.lent_blocks} lent, "
        f"{space.kept_back_blocks} kept back{paused}"
    )


def _size(num_bytes: int) -> str:
    """Nine columns; nothing known is a dash."""
    if not num_bytes:
        return f"{'-':>9}"
    mib = num_bytes / 2**20
    return f"{mib:5.0f} MiB" if mib < 10_000 else f"{mib / 1024:5.1f} GiB"


def _print_event(incoming: Incoming) -> None:
    event = incoming.message
    if isinstance(event, Event):
        fields = " ".join(
            f"{key}={msgspec.json.encode(value).decode()}" for key, value in event.fields.items()
        )
        print(f"{event.source_id} #{event.seq} {event.kind} {fields}", flush=True)
