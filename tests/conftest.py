"""How the tests are spread over processes under `pytest -n` (pytest-xdist)."""

from __future__ import annotations

from typing import Any

import pytest


# Optional: without pytest-xdist nobody asks, and tests run one after another.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Lanes for `-n`; another way that is asked for with --dist stays."""
    if config.getoption("dist") != "load":
        return None
    from tests.support.lanes import Lanes

    return Lanes(config, log)
