"""A bus on which every service has a user of its own, and may do no more than it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rondo.bus.nats import NatsBus
from rondo.bus.permissions import COORDINATOR, GATEWAY, OPERATOR, WORKER, user_of
from rondo.bus.protocol import Bus
from tests.support.buses import NatsHarness
from tests.support.services import Stage

_ROLES = {"c": COORDINATOR, "g": GATEWAY, "w": WORKER}


def user_named(name: str) -> str:
    """The user of a connection: `w0` is a worker's, `g0` a gateway's; observers are operators."""
    role = _ROLES.get(name[0]) if name[1:].isdigit() else None
    return user_of(role, name) if role else OPERATOR


class GuardedHarness(NatsHarness):
    """NATS with users; the server's log says what it refused."""

    def new_bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection that is not connected yet."""
        url = self.server.url_of(user_named(name))
        self._buses.append(NatsBus(url, name=name, buffer_bytes=buffer_bytes))
        return self._buses[-1]

    async def start(self) -> None:
        """Starts the server with the users that tests have."""
        for name in ("observer", *(f"{kind}{number}" for kind in _ROLES for number in range(8))):
            self.server.url_of(user_named(name))
        await super().start()

    def refused(self) -> list[str]:
        """What was tried and not allowed."""
        lines = self.server.log_file.read_text().splitlines()
        return [line for line in lines if "Violation" in line]


@asynccontextmanager
async def guarded_stage(run_dir: Path) -> AsyncIterator[Stage]:
    """A stage on which nothing that services do may be refused."""
    harness = GuardedHarness(run_dir)
    await harness.start()
    stage = Stage(harness)
    try:
        yield stage
    finally:
        await stage.close()
        await harness.stop()
    assert harness.refused() == []
