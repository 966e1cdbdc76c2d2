"""Under `pytest -n`, whoever starts a cluster is in the lane of clusters."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.lanes import CLUSTERS

ROOT = Path(__file__).parents[2]
STARTS = re.compile(r"^from tests\.support\.cluster import .*\brunning\b", re.MULTILINE)


def test_every_file_that_starts_a_cluster_is_in_their_lane() -> None:
    files = [
        path for path in (ROOT / "tests").rglob("test_*.py") if STARTS.search(path.read_text())
    ]
    names = [str(path.relative_to(ROOT)) for path in files]
    assert len(names) > 10
    assert [name for name in names if not name.startswith(CLUSTERS)] == []


def test_all_of_the_lane_is_there() -> None:
    assert [name for name in CLUSTERS if not (ROOT / name).exists()] == []
