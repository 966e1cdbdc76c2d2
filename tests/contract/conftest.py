"""Fixtures of the bus suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.buses import BusHarness, running


@pytest.fixture(params=["memory", "nats"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BusHarness]:
    """Each bus in turn."""
    async with running(request.param, tmp_path) as made:
        yield made
