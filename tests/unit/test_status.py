"""What `rondo status` prints of instances."""

from __future__ import annotations

import json

from rondo.local.status import as_json, as_table
from rondo.types import KvOccupancy, KvSpace, Phase
from rondo.wire.messages import InstanceStatus, StatusReply

MIB = 2**20


def status(instance_id: str, **fields: object) -> InstanceStatus:
    given = {
        "engine": "torch",
        "phase": Phase.DECODE,
        "turn": 3,
        "num_running": 2,
        "num_waiting": 1,
        "kv": KvOccupancy(total_blocks=200, used_blocks=50, free_blocks=150, reserved_blocks=9),
        "report_age_s": 0.25,
        **fields,
    }
    return InstanceStatus(instance_id=instance_id, **given)  # type: ignore[arg-type]


def reply(*instances: InstanceStatus) -> StatusReply:
    return StatusReply(
        macro_id="m", model="m", owner_id="c", epoch=1, num_pending=0, instances=instances
    )


def test_memory_is_stated_and_columns_line_up() -> None:
    known = status("w-1", weight_bytes=537 * MIB, kv_bytes=1024 * MIB, peak_bytes=20_480 * MIB)
    _, header, first, second = as_table([reply(known, status("w-2", kv=None))]).splitlines()
    assert "537 MiB  1024 MiB  20.0 GiB" in first
    assert second.split()[6:11] == ["-", "-", "-", "-", "0.25"]
    ends = [header.index(name) + len(name) for name in ("weights", "KV pool", "peak")]
    assert [first[end - 3 : end] for end in ends] == ["MiB", "MiB", "GiB"]


def test_what_is_promised_of_the_pool_is_said_where_anything_is() -> None:
    space = KvSpace(owned_blocks=120, lent_blocks=30, kept_back_blocks=4, num_paused=2)
    plain, promising = status("w-1"), status("w-2", space=space)
    assert "promised" not in as_table([reply(plain)])
    _, header, first, second = as_table([reply(plain, promising)]).splitlines()
    assert header.index("KV promised") == second.index("120 owned, 30 lent, 4 kept back, 2 paused")
    assert len(first) == len(header) - len("  KV promised")
    found = json.loads(as_json([reply(promising)]))["macros"][0]["instances"][0]["space"]
    assert (found["owned_blocks"], found["num_paused"]) == (120, 2)


def test_json_has_bytes() -> None:
    macros = json.loads(as_json([reply(status("w-1", peak_bytes=7))]))["macros"]
    assert macros[0]["instances"][0]["peak_bytes"] == 7


def test_no_answer_is_said() -> None:
    assert "no coordinator" in as_table([])
