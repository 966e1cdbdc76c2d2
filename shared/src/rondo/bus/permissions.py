"""Who may say what on the bus: the only table of it, and its form for nats-server.

A user is called after its role, `gateway`, or after its role and the id of the one program that it
is for, `worker.w-1`. The subjects are those of `rondo.bus.subjects`, and JetStream's own for the
key-value buckets: `$JS.API.STREAM.INFO` and `.CREATE` to find or make a bucket, `.MSG.GET` to read
a key, `.UPDATE` to give it replicas, `.CONSUMER.CREATE` to watch, `$KV.<bucket>.<key>` to write.

JetStream itself sends what a watch or a stored message asks for, to any subject that the asker
names, and no permission hinders it. Programs therefore drop what JetStream sends on a subject of
ours (`rondo.bus.nats`): with it, these permissions hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from rondo.bus import subjects

GATEWAY = "gateway"
COORDINATOR = "coordinator"
WORKER = "worker"
OPERATOR = "operator"
ROLES = (GATEWAY, COORDINATOR, WORKER, OPERATOR)

_INBOX = "_INBOX"
_API = "$JS.API"

#: Who makes a bucket what it is. Instances are written by workers, a key each.
_OWNERS = {
    subjects.INSTANCES_BUCKET: COORDINATOR,
    subjects.MACROS_BUCKET: COORDINATOR,
    subjects.SCALING_BUCKET: COORDINATOR,
    subjects.RESPONSES_BUCKET: GATEWAY,
    subjects.FILES_BUCKET: GATEWAY,
    subjects.FILE_CHUNKS_BUCKET: GATEWAY,
    subjects.BATCHES_BUCKET: GATEWAY,
}


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a user may publish on and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def user_of(role: str, own_id: str = "") -> str:
    """The user of a role, or, with an id, that of one program of it.

    Raises:
        ValueError: there is no such role, or the id cannot be one.
    """
    if role not in ROLES:
        raise ValueError(f"{role!r} is no role: {', '.join(ROLES)}")
    return f"{role}.{subjects.check_id(own_id)}" if own_id else role


def is_user(name: str) -> bool:
    """Whether `user_of` can have made it."""
    role, dot, own_id = name.partition(".")
    try:
        return user_of(role, own_id) == name and bool(dot) == bool(own_id)
    except ValueError:
        return False


def inbox_prefix(user: str) -> str:
    """Where answers to a user come; a user whose name is not ours shares everybody's inboxes."""
    return f"{_INBOX}.{user}" if is_user(user) else _INBOX


def may_replicate(user: str, bucket: str) -> bool:
    """Whether a user may change how many replicas a bucket has."""
    return not is_user(user) or role_of(user) in (OPERATOR, _OWNERS.get(bucket))


def role_of(user: str) -> str:
    """The role of a user made by `user_of`."""
    return user.partition(".")[0]


def permissions_of(user: str, *, demo: bool = False) -> Permissions:
    """What a user may do.

    Args:
        demo: a demonstration cluster, in which a gateway may break instances when told to.

    Raises:
        ValueError: `user_of` cannot have made it.
    """
    if not is_user(user):
        raise ValueError(f"{user!r} is no user: a role, or a role and an id, e.g. worker.w-1")
    role, _, own_id = user.partition(".")
    table = {
        GATEWAY: lambda: _gateway(own_id, demo),
        COORDINATOR: _coordinator,
        WORKER: lambda: _worker(own_id, demo),
        OPERATOR: _operator,
    }
    # Its own inbox also for publishing: a flush is a request to an inbox that nobody listens to.
    inbox = (f"{inbox_prefix(user)}.>",)
    found = table[role]()
    return Permissions(_once(found.publish + inbox), _once(found.subscribe + inbox))


def authorization(passwords: Mapping[str, str], *, demo: bool = False) -> str:
    """The authorization block of nats-server's configuration, for users and their passwords."""
    users = ",\n".join(
        f"    {{ user: {json.dumps(user)}, password: {json.dumps(password)},"
        f" permissions: {json.dumps(asdict(permissions_of(user, demo=demo)))} }}"
        for user, password in passwords.items()
    )
    return f"authorization {{\n  users: [\n{users}\n  ]\n}}\n"


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _gateway(own_id: str, demo: bool) -> Permissions:
    watched = (subjects.MACROS_BUCKET, subjects.INSTANCES_BUCKET)
    own = [bucket for bucket, owner in _OWNERS.items() if owner == GATEWAY]
    return Permissions(
        publish=(
            subjects.any_submit(),
            subjects.any_run(),
            subjects.WATCH,
            subjects.STATUS,
            subjects.event("answered"),
            *((subjects.any_fault(),) if demo else ()),
            *(name for bucket in watched for name in (*_open(bucket), *_watch(bucket))),
            *(name for bucket in own for name in _own(bucket)),
        ),
        subscribe=(
            subjects.tokens(own_id) if own_id else subjects.all_tokens(),
            subjects.all_events(),
            subjects.all_reports(),  # for its console
            subjects.WATCH,
        ),
    )


def _coordinator() -> Permissions:
    own = [bucket for bucket, owner in _OWNERS.items() if owner == COORDINATOR]
    return Permissions(
        publish=(
            subjects.any_command(),
            subjects.all_events(),
            # An answer goes to the inbox of who may ask, and nowhere else.
            f"{_INBOX}.{GATEWAY}.>",
            f"{_INBOX}.{OPERATOR}.>",
            *(name for bucket in own for name in _own(bucket)),
        ),
        subscribe=(
            subjects.any_submit(),
            subjects.all_reports(),
            subjects.all_beats(),
            subjects.STATUS,
            subjects.WATCH,
        ),
    )


def _worker(own_id: str, demo: bool) -> Permissions:
    """Of the instance `own_id`, or, where that is empty, of any instance."""
    bucket = subjects.INSTANCES_BUCKET
    hears = (
        (subjects.run(own_id), subjects.command(own_id), subjects.fault(own_id))
        if own_id
        else (subjects.any_run(), subjects.any_command(), subjects.any_fault())
    )
    return Permissions(
        publish=(
            subjects.report(own_id) if own_id else subjects.all_reports(),
            subjects.beat(own_id) if own_id else subjects.all_beats(),
            subjects.all_tokens(),
            *_open(bucket),
            _key(bucket, own_id or "*"),
            *((f"{_INBOX}.{GATEWAY}.>",) if demo else ()),
        ),
        subscribe=hears[: 3 if demo else 2],
    )


def _operator() -> Permissions:
    """Whoever runs the cluster: sees everything, asks for the status, keeps the store in order."""
    return Permissions(publish=(subjects.STATUS, f"{_API}.>"), subscribe=(f"{subjects.PREFIX}.>",))


def _open(bucket: str) -> tuple[str, ...]:
    """To find a bucket, or make it; one that exists is not changed by that."""
    return tuple(f"{_API}.STREAM.{verb}.KV_{bucket}" for verb in ("INFO", "CREATE"))


def _watch(bucket: str) -> tuple[str, ...]:
    return (f"{_API}.CONSUMER.CREATE.KV_{bucket}",)


def _own(bucket: str) -> tuple[str, ...]:
    """All that a program does with a bucket."""
    changing = (f"{_API}.STREAM.{verb}.KV_{bucket}" for verb in ("UPDATE", "MSG.GET"))
    return (*_open(bucket), *changing, *_watch(bucket), _key(bucket))


def _key(bucket: str, key: str = "*") -> str:
    return f"$KV.{bucket}.{key}"
