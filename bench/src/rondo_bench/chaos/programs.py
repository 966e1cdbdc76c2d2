"""The programs of a local cluster as processes: which are there, and who owns what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rondo.errors import RondoError
from rondo.local.status import cluster_status

#: An argument of each program's command line, or the name of the file that is run.
MARKS = {
    "worker": "rondo_worker",
    "coordinator": "rondo_coordinator",
    "gateway": "rondo_gateway",
    "bus": "nats-server",
}
_STATE_FILE = b"RONDO_STATE_FILE="
_COORDINATOR_ID = re.compile(rb"\bcoordinator=(\S+)")


def programs_of(parents: Sequence[int], program: str) -> list[int]:
    """One kind of program among the children of `parents`: process ids, in ascending order.

    Those that are just being started, and do not listen yet, are left out.
    """
    mark = MARKS[program]
    return sorted(pid for pid in _children(parents) if mark in _names(pid) and _is_up(pid))


async def owner_pid(parents: Sequence[int], nats_url: str) -> int | None:
    """The coordinator that owns a macro-instance now; None while nobody does or answers."""
    try:
        replies = await cluster_status(nats_url)
    except (RondoError, OSError):
        return None
    owners = {reply.owner_id for reply in replies}
    coordinators = programs_of(parents, "coordinator")
    return next((pid for pid in coordinators if _coordinator_id(pid) in owners), None)


def _children(parents: Sequence[int]) -> Iterator[int]:
    for parent in parents:
        for listing in sorted(Path(f"/proc/{parent}/task").glob("*/children")):
            try:
                yield from map(int, listing.read_text().split())
            except OSError:  # the thread has ended
                continue


def _of(pid: int, what: str) -> bytes:
    """A file of /proc; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _names(pid: int) -> set[str]:
    """The arguments of its command line, without folders.

    A part of one is not enough: Python's fork server names modules that it may load.
    """
    arguments = _of(pid, "cmdline").decode(errors="replace").split("\0")
    return {argument.rpartition("/")[2] for argument in arguments}


def _is_up(pid: int) -> bool:
    """Programs of ours write this file once they listen; nats-server does not know it."""
    environ = _of(pid, "environ")
    if not environ:  # it has ended, or is just beginning
        return False
    entries = environ.split(b"\0")
    paths = [entry.removeprefix(_STATE_FILE) for entry in entries if entry.startswith(_STATE_FILE)]
    return all(Path(path.decode()).exists() for path in paths)


def _coordinator_id(pid: int) -> str:
    """What a coordinator calls itself: the last id in its log, which is where its stderr goes."""
    try:
        named = _COORDINATOR_ID.findall(Path(os.readlink(f"/proc/{pid}/fd/2")).read_bytes())
    except OSError:
        return ""
    return named[-1].decode() if named else ""
