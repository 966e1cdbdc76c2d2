"""Fixtures of the bus suite and of the engine suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.buses import BusHarness, running
from tests.support.engines import block_size, engine, kind, make_engine, model_folder

__all__ = ["block_size", "engine", "kind", "make_engine", "model_folder"]


@pytest.fixture(params=["memory", "nats"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BusHarness]:
    """Each bus in turn."""
    async with running(request.param, tmp_path) as made:
        yield made
