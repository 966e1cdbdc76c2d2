"""How many sequences a decode batch, and how many tokens a fused step should have.

Matrices are computed in tiles: on an L20 a step of 257 rows takes half as long again as one of 256.
So a batch of its fair share is not always the best: what passes a tile's edge is held back, as long
as that brings more tokens a second; and a fused step is filled with prompt tokens up to an edge.
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


def best_rows(latency: LatencyModel, batch: int, most: int, context: float) -> int:
    """Rows of a fused step with `batch` decodes: the multiple of the tile up to `most` at which a
    row costs least. `batch` itself when it has so many already."""
    edges = [edge for edge in (*range(TILE, most, TILE), most) if edge > batch]
    cached = round(batch * context)
    return min(
        edges, key=lambda rows: latency.step_s(rows - batch, 0, batch, cached) / rows, default=batch
    )
