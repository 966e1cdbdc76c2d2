"""All that services do is allowed to their users: the whole way, with every role's permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.test_bus_away import (
    test_requests_end_with_typed_errors_and_all_is_well_afterwards,
)
from tests.integration.test_live_mitosis import (
    test_a_new_owner_goes_on_with_the_same_groups,
    test_scaling_asks_for_instances_and_ends_idle_ones,
    test_two_that_fit_into_one_merge_and_the_empty_one_is_no_more,
)
from tests.integration.test_whole_way import (
    test_a_worker_that_drains_loses_no_answer,
    test_clients_that_leave_cost_nothing_afterwards,
    test_fifty_answers_are_exact,
)
from tests.support.guarded import guarded_stage
from tests.support.services import Stage

__all__ = [
    "test_a_new_owner_goes_on_with_the_same_groups",
    "test_a_worker_that_drains_loses_no_answer",
    "test_clients_that_leave_cost_nothing_afterwards",
    "test_fifty_answers_are_exact",
    "test_requests_end_with_typed_errors_and_all_is_well_afterwards",
    "test_scaling_asks_for_instances_and_ends_idle_ones",
    "test_two_that_fit_into_one_merge_and_the_empty_one_is_no_more",
]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """As the other tests' stage, and refused is nothing."""
    async with guarded_stage(tmp_path) as made:
        yield made
