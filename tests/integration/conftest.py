"""Fixtures of the services' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.nats import ServerUnderTest
from tests.support.services import Stage, stage_on


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A real nats-server, and services to start on it."""
    async with stage_on("nats", tmp_path) as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    """A real nats-server alone."""
    made = ServerUnderTest(tmp_path / "nats")
    await made.start()
    yield made
    await made.stop()
