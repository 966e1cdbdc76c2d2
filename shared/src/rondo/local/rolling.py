"""Rolling restart: programs of a running cluster are replaced, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import aiohttp

from rondo.errors import ConfigError
from rondo.local.children import Child

#: What a program may take for its end besides letting its requests finish.
STOP_SLACK_S = 15.0
#: The programs' own default (their settings cannot be imported here).
DEFAULT_DRAIN_S = 30.0
READY_TIMEOUT_S = 300.0
PROBE_TIMEOUT_S = 2.0


def choose(children: Sequence[Child], what: str) -> list[Child]:
    """The programs that `what` means: `all`, a kind, or one by its name.

    Raises:
        ConfigError: there is none such.
    """
    chosen = [child for child in children if what in ("all", child.kind, child.name)]
    if not chosen:
        known = dict.fromkeys(["all", *(c.kind for c in children), *(c.name for c in children)])
        raise ConfigError("restart", f"{what!r} is none of: {', '.join(known)}")
    return chosen


async def restart(children: Sequence[Child], say: Callable[[str], None]) -> None:
    """Replaces each, and goes on with the next when it is ready.

    Raises:
        ChildFailed: a new process ended; the rest is left as it is. ConfigError: it was not ready.
    """
    stop_timeout_s = _drain_timeout_s() + STOP_SLACK_S
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for child in children:
            say(f"{child.name} (pid {child.pid}) is replaced")
            try:
                await child.replace(session, stop_timeout_s, READY_TIMEOUT_S)
            except TimeoutError:
                problem = f"{child.name} was not ready in {READY_TIMEOUT_S:g} s"
                raise ConfigError("restart", problem) from None
            say(f"{child.name} ready (pid {child.pid})")


def _drain_timeout_s() -> float:
    """How long programs let their requests finish; they inherit the setting."""
    try:
        return float(os.environ.get("RONDO_DRAIN_TIMEOUT_S", ""))
    except ValueError:
        return DEFAULT_DRAIN_S
