"""The most tokens a second that any schedule of a pipeline could reach, drain and ramp-up left out.

Counted are steps only: each takes what the table says of its rows, and the reading of the KV, which
is the same in sum for all schedules. A request passes the pipeline once in P steps at most, so P
steps that follow one another read no more cached tokens than the pool holds; that sets how many
steps there are at least. They may have any rows, at the table's best mixture, and no stage waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from rondo_bench.tdpipe.model import BLOCK_SIZE, ModelShape, load_model
from rondo_bench.tdpipe.simulated import Request


def best_tokens_per_s(shape: ModelShape, requests: Sequence[Request], num_stages: int) -> float:
    """Tokens of answers a second, of the whole job."""
    model = load_model(shape)
    # An answer's last token is not cached, its first comes with the prompt.
    rows = sum(each.prompt + each.output - 1 for each in requests)
    cached = sum(_cached_tokens(each) for each in requests)
    pool_tokens = shape.num_blocks(num_stages) * BLOCK_SIZE
    fewest = max(1.0, num_stages * cached / pool_tokens)
    work_s = _least_s(model.table_s, max(rows, fewest), fewest) + model.read_s * cached
    return sum(each.output for each in requests) / (work_s / num_stages)


def _cached_tokens(request: Request) -> int:
    """Cached tokens that the steps of one answer read, summed."""
    decodes = request.output - 1
    return decodes * request.prompt + decodes * (decodes - 1) // 2


def _least_s(table_s: Sequence[float], rows: float, fewest: float) -> float:
    """Seconds of `rows` rows in at least `fewest` steps."""
    hull = _lower_hull(table_s)
    best_s = float("inf")
    for (left, left_s), (right, right_s) in zip(hull, hull[1:], strict=False):
        # On a line between two sizes time falls or rises with the number of steps: ends suffice.
        for size in (left, right, min(max(rows / fewest, left), right)):
            if size <= 0 or rows / size < fewest - 1e-9:
                continue
            step_s = left_s + (right_s - left_s) * (size - left) / (right - left)
            best_s = min(best_s, rows / size * step_s)
    return best_s


def _lower_hull(table_s: Sequence[float]) -> list[tuple[int, float]]:
    """Corners of the convex curve below the table, from one row on."""
    hull: list[tuple[int, float]] = []
    for point in enumerate(table_s[1:], start=1):
        while len(hull) > 1 and _is_above(hull[-1], hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _is_above(point: tuple[int, float], left: tuple[int, float], right: tuple[int, float]) -> bool:
    """Whether a point is not below the line between its neighbours."""
    slope = (right[1] - left[1]) / (right[0] - left[0])
    return point[1] >= left[1] + slope * (point[0] - left[0])
