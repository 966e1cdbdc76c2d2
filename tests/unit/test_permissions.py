"""The table of who may say what on the bus: complete, and no wider than a role."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.permissions import (
    COORDINATOR,
    GATEWAY,
    OPERATOR,
    ROLES,
    WORKER,
    authorization,
    inbox_prefix,
    is_user,
    may_replicate,
    permissions_of,
    user_of,
)
from rondo.local.nats_server import find_binary

OWN = "worker.w-1"
USERS = (*ROLES, OWN, "gateway.g-1")


def covers(pattern: str, subject: str) -> bool:
    """Whether a permission allows a subject, as NATS matches them."""
    tokens = [
        ".+" if token == ">" else r"[^.]+" if token == "*" else re.escape(token)
        for token in pattern.split(".")
    ]
    return re.fullmatch(r"\.".join(tokens), subject) is not None


def may_publish(user: str, subject: str, *, demo: bool = False) -> bool:
    return any(covers(name, subject) for name in permissions_of(user, demo=demo).publish)


def may_subscribe(user: str, subject: str, *, demo: bool = False) -> bool:
    return any(covers(name, subject) for name in permissions_of(user, demo=demo).subscribe)


#: Subject: who publishes on it, and who subscribes to it, besides the operator, who sees all.
TABLE = {
    subjects.submit("m"): ((GATEWAY,), (COORDINATOR,)),
    subjects.run("w-1"): ((GATEWAY,), (WORKER, OWN)),
    subjects.command("w-1"): ((COORDINATOR,), (WORKER, OWN)),
    subjects.report("w-1"): ((WORKER, OWN), (COORDINATOR, GATEWAY)),
    subjects.beat("w-1"): ((WORKER, OWN), (COORDINATOR,)),
    subjects.tokens("g-1"): ((WORKER, OWN), (GATEWAY, "gateway.g-1")),
    subjects.event("admitted"): ((COORDINATOR,), (GATEWAY,)),
    subjects.event("answered"): ((COORDINATOR, GATEWAY), (GATEWAY,)),
    subjects.STATUS: ((GATEWAY, OPERATOR), (COORDINATOR,)),
    subjects.WATCH: ((GATEWAY,), (COORDINATOR, GATEWAY)),
    subjects.fault("w-1"): ((), ()),
    # Of others, which a user for one program must not touch.
    subjects.run("w-2"): ((GATEWAY,), (WORKER,)),
    subjects.command("w-2"): ((COORDINATOR,), (WORKER,)),
    subjects.report("w-2"): ((WORKER,), (COORDINATOR, GATEWAY)),
    subjects.beat("w-2"): ((WORKER,), (COORDINATOR,)),
    subjects.tokens("g-2"): ((WORKER, OWN), (GATEWAY,)),
}


@pytest.mark.parametrize("user", ROLES + (OWN,))
@pytest.mark.parametrize("subject", TABLE)
def test_a_role_has_the_subjects_of_its_part_and_no_other(user: str, subject: str) -> None:
    publishers, subscribers = TABLE[subject]
    assert may_publish(user, subject) == (user in publishers)
    assert may_subscribe(user, subject) == (user in subscribers or user == OPERATOR)


def test_every_subject_is_in_the_table() -> None:
    """Who adds a subject decides here who may use it."""
    wildcards = {"check_id", "macro_id_of", "further_macro_id", "instance_of"}
    builders = {
        name
        for name, value in inspect.getmembers(subjects, inspect.isfunction)
        if value.__module__ == subjects.__name__ and not name.startswith(("any_", "all_", "_"))
    } - wildcards
    used = {"submit", "run", "command", "report", "beat", "tokens", "event", "fault"}
    assert builders == used
    constants = {
        value
        for name, value in vars(subjects).items()
        if name.isupper() and isinstance(value, str) and value.startswith(f"{subjects.PREFIX}.")
    }
    assert constants <= set(TABLE)


def test_every_bucket_can_be_made_and_written() -> None:
    buckets = [value for name, value in vars(subjects).items() if name.endswith("_BUCKET")]
    for bucket in buckets:
        users = [user for user in ROLES if may_publish(user, f"$KV.{bucket}.key")]
        assert users, bucket
        for user in users:
            assert may_publish(user, f"$JS.API.STREAM.INFO.KV_{bucket}")
            assert may_publish(user, f"$JS.API.STREAM.CREATE.KV_{bucket}")
        # Somebody gives it its replicas, and that is no worker: it would own everybody's records.
        keepers = [user for user in ROLES if may_replicate(user, bucket)]
        assert WORKER not in keepers
        assert keepers != [OPERATOR]
        for user in keepers:
            assert may_publish(user, f"$JS.API.STREAM.UPDATE.KV_{bucket}")
    assert may_replicate("somebody", buckets[0])


@pytest.mark.parametrize("verb", ["DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE"])
@pytest.mark.parametrize("user", [GATEWAY, COORDINATOR, WORKER, OWN])
def test_no_service_empties_a_store(user: str, verb: str) -> None:
    assert not may_publish(user, f"$JS.API.STREAM.{verb}.KV_{subjects.INSTANCES_BUCKET}")


@pytest.mark.parametrize("user", [GATEWAY, COORDINATOR, WORKER, OWN])
def test_no_service_makes_streams_of_its_own(user: str) -> None:
    assert not may_publish(user, "$JS.API.STREAM.CREATE.mine")
    assert not may_publish(user, "$JS.API.CONSUMER.CREATE.mine")


def test_a_workers_key_is_its_own() -> None:
    assert may_publish(OWN, f"$KV.{subjects.INSTANCES_BUCKET}.w-1")
    assert not may_publish(OWN, f"$KV.{subjects.INSTANCES_BUCKET}.w-2")
    assert not may_publish(OWN, f"$KV.{subjects.MACROS_BUCKET}.m")


def test_inboxes_are_apart_and_coordinators_answer_who_may_ask() -> None:
    for user in USERS:
        own = f"{inbox_prefix(user)}.abc"
        assert may_publish(user, own)
        assert may_subscribe(user, own)
        for other in USERS:
            # A role's user sees the inboxes of its programs; one program's sees its own.
            shared = other == user or other.startswith(f"{user}.")
            assert may_subscribe(user, f"{inbox_prefix(other)}.abc") == shared, (user, other)
    for user in ("gateway", "gateway.g-1", "operator"):
        assert may_publish(COORDINATOR, f"{inbox_prefix(user)}.abc.def")
    assert not may_publish(COORDINATOR, f"{inbox_prefix(OWN)}.abc")
    assert inbox_prefix("") == inbox_prefix("somebody") == inbox_prefix("worker.") == "_INBOX"


def test_a_demonstration_may_break_instances() -> None:
    assert may_publish(GATEWAY, subjects.fault("w-1"), demo=True)
    assert may_subscribe(OWN, subjects.fault("w-1"), demo=True)
    assert not may_subscribe(OWN, subjects.fault("w-2"), demo=True)
    assert may_publish(OWN, f"{inbox_prefix(GATEWAY)}.abc", demo=True)
    assert not may_publish(OWN, f"{inbox_prefix(GATEWAY)}.abc")
    assert not may_publish(COORDINATOR, subjects.fault("w-1"), demo=True)


@pytest.mark.parametrize(("role", "own_id"), [("admin", ""), ("worker", "a.b"), ("worker", "*")])
def test_no_users(role: str, own_id: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        user_of(role, own_id)
    with pytest.raises(ValueError, match="is no user"):
        permissions_of(f"{role}.{own_id}")
    assert not is_user(f"{role}.{own_id}")


def test_nats_server_takes_the_block(tmp_path: Path) -> None:
    text = authorization({user: f'pass"{user}' for user in USERS}, demo=True)
    assert json.dumps('pass"worker.w-1') in text
    config = tmp_path / "nats.conf"
    config.write_text(text)
    command = [find_binary(), "--config", str(config), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
