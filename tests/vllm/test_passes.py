"""How a plan is cut where it is larger than vLLM's buffers; needs no vllm."""

from __future__ import annotations

import pytest

from rondo.policy.plan import PlanItem
from rondo_worker.engines.vllm.engine import passes


def cut(sizes: list[int], max_tokens: int, max_rows: int = 9) -> list[list[tuple[str, int, int]]]:
    items = [PlanItem(f"r{number}", 5, size, [0]) for number, size in enumerate(sizes)]
    groups = passes(items, max_tokens, max_rows)
    return [[(item.request_id, item.start, item.num_tokens) for item in group] for group in groups]


def test_a_plan_that_fits_is_one_pass() -> None:
    assert cut([3, 1, 4], 8) == [[("r0", 5, 3), ("r1", 5, 1), ("r2", 5, 4)]]


def test_a_long_prompt_is_cut_and_goes_on_where_it_stopped() -> None:
    assert cut([2, 7], 4) == [[("r0", 5, 2), ("r1", 5, 2)], [("r1", 7, 4)], [("r1", 11, 1)]]


def test_a_pass_has_at_most_so_many_requests() -> None:
    assert cut([1] * 5, 100, max_rows=2) == [
        [("r0", 5, 1), ("r1", 5, 1)],
        [("r2", 5, 1), ("r3", 5, 1)],
        [("r4", 5, 1)],
    ]


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_nothing_is_lost_or_computed_twice(max_tokens: int) -> None:
    sizes = [3, 1, 1, 6, 2]
    groups = cut(sizes, max_tokens, max_rows=3)
    assert all(sum(size for _, _, size in group) <= max_tokens for group in groups)
    for number, size in enumerate(sizes):
        pieces = [piece for group in groups for piece in group if piece[0] == f"r{number}"]
        covered = [token for _, start, num in pieces for token in range(start, start + num)]
        assert covered == list(range(5, 5 + size))
