"""How many sequences a decode batch, and how many tokens a step with prompts should have.

Matrices are computed in tiles: on an L20 a step of 257 rows takes half as long again as one of 256.
So a batch of its fair share is not always the best: what passes a tile's edge is held back, as long
as that brings more tokens a second; and a step is filled with prompt tokens up to an edge.
"""

from __future__ import annotations

from rondo.types import LatencyModel

#: Rows in which step times rise, where they rise in steps; harmless where they do not.
TILE = 128


def best_batch(latency: LatencyModel, share: int, context: float) -> int:
    """The number of sequences up to `share`, of `context` tokens each, that brings most tokens a
    second: the share itself, or a multiple of the tile."""

    def rate(size: int) -> float:
        return size / latency.step_s(0, 0, size, round(size * context))

    sizes: list[int] = [share, *range(TILE, share, TILE)]
    return max(sizes, key=rate)


def even_rows(latency: LatencyModel, most: int, limit_s: float) -> int:
    """Rows of a prefill step: the multiple of the tile up to `most` at which a row costs least, of
    those with which it takes no longer than `limit_s`; the first where there is none."""

    def step_s(rows: int) -> float:
        return latency.step_s(rows, 0, 0, 0)

    edges: list[int] = [*range(TILE, most, TILE), most]
    short = [rows for rows in edges if step_s(rows) <= limit_s]
    return min(short or edges[:1], key=lambda rows: step_s(rows) / rows)


def best_rows(latency: LatencyModel, batch: int, most: int, context: float) -> int:
    """Rows of a fused step with `batch` decodes: the multiple of the tile up to `most` at which a
    row costs least. `batch` itself when it has so many already."""
    edges = [edge for edge in (*range(TILE, most, TILE), most) if edge > batch]
    cached = round(batch * context)
    return min(
        edges, key=lambda rows: latency.step_s(rows - batch, 0, batch, cached) / rows, default=batch
    )
